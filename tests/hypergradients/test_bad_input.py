"""Each mistake gets an error that names the argument and the remedy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp

RATE = {"learning_rate": 0.1}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inner": optax.sgd(0.1)}, TypeError, "`inner` must be a factory, such as"),
        ({"hyperparams": {}}, TypeError, "`hyperparams` must map the names"),
        ({"hyperparams": 0.1}, TypeError, "`hyperparams` must map the names"),
        (
            {"hyperparams": {"rate": 0.1}},
            ValueError,
            "names 'rate', which sgd does not take. It takes: learning_rate, momentum,",
        ),
        (
            {
                "hyperparams": {"b1": 0.1},
                "inner": functools.partial(optax.sgd, momentum=0.9),
            },
            ValueError,
            "names 'b1', which sgd does not take. It takes: learning_rate, momentum,",
        ),
        (
            {"hyperparams": {"learning_rate": np.ones(3)}},
            TypeError,
            r"`hyperparams\['learning_rate'\]` must be a number or a JAX scalar",
        ),
        (
            {"hyperparams": {"learning_rate": optax.constant_schedule(0.1)}},
            TypeError,
            "must be a number or a JAX scalar, its initial value",
        ),
        ({"hyperparams": {"learning_rate": np.nan}}, ValueError, "must be finite"),
        (
            {"hyperparams": {"learning_rate": -0.1}},
            ValueError,
            r"starts at -0.1, outside of its `bounds` \[0.0, inf\]. Start inside, or",
        ),
        (
            {"bounds": {"learning_rate": (0.2, 0.3)}},
            ValueError,
            r"starts at 0.1, outside of its `bounds` \[0.2, 0.3\]",
        ),
        ({"bounds": {"b1": (0, 1)}}, ValueError, "`bounds` names 'b1'.*learning_rate"),
        (
            {"bounds": {"learning_rate": 1.0}},
            ValueError,
            r"must be a pair \(low, high\)",
        ),
        ({"bounds": {"learning_rate": (1, 0)}}, ValueError, r"must be a pair \(low, h"),
        ({"bounds": {"learning_rate": ("0", "1")}}, ValueError, "pair .* of numbers"),
        ({"bounds": {"learning_rate": (0, np.nan)}}, ValueError, "pair .* of numbers"),
        ({"bounds": (0, 1)}, TypeError, "`bounds` must map names to pairs, as in"),
        ({"discount": 1.5}, ValueError, r"`discount` must lie in \[0, 1\], or be None"),
        ({"discount": -1}, ValueError, r"`discount` must lie in \[0, 1\], or be None"),
        ({"discount": "auto"}, ValueError, r"`discount` must lie in \[0, 1\], or be N"),
        ({"rule": "scale-free"}, ValueError, "`rule` must be one of"),
        (
            {"hyper_learning_rate": -1.0},
            ValueError,
            "`hyper_learning_rate` must lie in",
        ),
        (
            {"hyper_learning_rate": 1.0, "rule": "multiplicative"},
            ValueError,
            r"`hyper_learning_rate` must lie in \[0, 1\)",
        ),
        (
            {"hyperparams": {"learning_rate": 0.0}, "rule": "multiplicative"},
            ValueError,
            "needs starts above 0, but .* is 0.0: start above 0 or use the additive",
        ),
        ({"adaptation_rate": -1.0}, ValueError, "`adaptation_rate` must lie in"),
        (
            {"adaptation_rate": 0.1, "hyper_learning_rate": optax.sgd(0.1)},
            ValueError,
            "`adaptation_rate` adapts a number",
        ),
        ({"clip_hypergradient": 0.0}, ValueError, "`clip_hypergradient` must lie in"),
        ({"adaptation_steps": -1}, ValueError, "`adaptation_steps` must lie in"),
    ],
)
def test_the_factory_names_the_argument(arguments, error, words):
    with pytest.raises(error, match=words):
        hp.hypergradient(**{"inner": optax.sgd, "hyperparams": RATE, **arguments})


def update(tx, params, *args, **kwargs):
    return jax.jit(lambda p: tx.update(p, tx.init(p), *args, **kwargs))(params)


@pytest.mark.parametrize("discount", [0.5, 1, None])
def test_a_missing_value_fn_is_named(discount):
    tx = hp.hypergradient(optax.sgd, RATE, discount=discount)
    with pytest.raises(TypeError, match=r"needs `value_fn`.*value_fn=lambda params"):
        update(tx, jnp.ones(2), jnp.ones(2))


def test_missing_params_are_named():
    with pytest.raises(ValueError, match=r"needs `params`: call tx\.update\(grads, s"):
        update(hp.hd(optax.sgd, 0.1, 0.1), jnp.ones(2))


@pytest.mark.parametrize("name", ["value_fn", "validation_fn"])
@pytest.mark.parametrize(
    ("value_fn", "found"),
    [
        (lambda w: w**2, r"\(2,\)"),
        (lambda w: (jnp.sum(w), w), r"\(\(\), \(2,\)\)"),
        (lambda w: 1.0, r"\(\)"),
        (lambda w: jnp.sum(w > 0), r"\(\)"),
    ],
)
def test_a_loss_that_is_not_a_scalar_is_named(name, value_fn, found):
    functions = {"value_fn": lambda w: jnp.sum(w**2), name: value_fn}
    with pytest.raises(
        ValueError,
        match=f"`{name}` must return a real scalar, got shape {found}. Return the mean",
    ):
        update(hp.rtho(optax.sgd, 0.1, 0.1), jnp.ones(2), jnp.ones(2), **functions)


@pytest.mark.parametrize("name", ["value_fn", "validation_fn"])
def test_a_loss_that_is_not_a_function_is_named(name):
    functions = {"value_fn": lambda w: jnp.sum(w**2), name: jnp.ones(())}
    with pytest.raises(TypeError, match=f"`{name}` must be a function of the param"):
        update(hp.rtho(optax.sgd, 0.1, 0.1), jnp.ones(2), jnp.ones(2), **functions)


@pytest.mark.parametrize("alias", [hp.hd, hp.marthe])
def test_the_additive_rule_needs_its_rate(alias):
    with pytest.raises(ValueError, match="needs a `hyper_learning_rate`, in units"):
        alias(optax.sgd, 0.1, rule="additive")


def test_a_factory_of_something_else_is_named():
    def schedule(learning_rate):
        return optax.constant_schedule(learning_rate)

    tx = hp.hd(schedule, 0.1)
    with pytest.raises(
        TypeError, match="must return an optax transformation; schedule"
    ):
        tx.init(jnp.zeros(2))
