"""Errors name the argument, what was found and what was expected."""

import jax
import jax.numpy as jnp
import optax
import pytest

import hpfree_jax as hp

GOOD = {"total_steps": 80, "steps_per_epoch": 4}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_steps", 0),
        ("total_steps", 2.5),
        ("steps_per_epoch", 0),
        ("steps_per_epoch", 81),
        ("test_every", 0),
        ("test_every", 81),
        ("min_learning_rate", 0.0),
        ("min_learning_rate", 2.0),
        ("max_learning_rate", float("nan")),
        ("max_warmup_fraction", 1.5),
        ("cooldown_fraction", -0.1),
        ("decay_factor", 0),
        ("decay_factor", 1.5),
        ("decay_stat", "accuracy"),
        ("warmup_type", "exp"),
        ("warmup_unit", "steps"),
        ("cooldown_type", "linear"),
        ("immediate_cooldown", 1),
        ("lengthscale", 0.01),
        ("confidence", 1.0),
        ("num_tests", 0),
        ("patience", True),
        ("fit_points", 1),
        ("predict_points", 1),
        ("seed", 0.5),
    ],
)
def test_an_argument_out_of_range_is_named(name, value):
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must"):
        hp.scale_by_autowu(**{**GOOD, name: value})


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="warmup_fraction"):
        hp.autowu(optax.identity(), **GOOD, warmup_fraction=0.5)  # pyright: ignore


def test_inner_is_a_transformation():
    with pytest.raises(TypeError, match="`inner` must be an optax transformation"):
        hp.autowu(optax.scale_by_adam, **GOOD)


@pytest.mark.parametrize("arguments", [{}, {"value": None}])
def test_the_loss_is_asked_for(arguments):
    tx = hp.scale_by_autowu(**GOOD)
    with pytest.raises(TypeError, match=r"needs `value`.*value=loss"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), **arguments)


@pytest.mark.parametrize("value", [jnp.ones(2), 1j, jnp.array(1)])
def test_the_loss_is_a_real_scalar(value):
    tx = hp.scale_by_autowu(**GOOD)
    with pytest.raises(ValueError, match="real scalar"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=value)


def test_too_few_tests_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"3 tests .* 40 steps.*only end by exhaustion"
    ):
        hp.scale_by_autowu(80, 13)
    hp.scale_by_autowu(80, 13, test_every=5)
    hp.scale_by_autowu(80, 13, max_warmup_fraction=0.0)


def test_a_traced_size_says_what_to_do():
    tx = optax.inject_hyperparams(hp.scale_by_autowu)(**GOOD)
    with pytest.raises(ValueError, match=r"`total_steps` sets the shape.*static_args"):
        jax.eval_shape(tx.init, jnp.ones(2))
