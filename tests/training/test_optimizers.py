import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from hpfree_jax.training import METHODS, build_optimizer
from hpfree_jax.training._optimizers import depends_on_total_steps

PARAMS = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)}
GRADS = {"kernel": np.array([[0.3, 0.1], [-0.2, 0.4]], np.float32)}


def run(optimizer, num_steps=3):
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    rates = []
    for step in range(num_steps):
        grads = jax.tree.map(lambda g: g * (1 + step), GRADS)  # noqa: B023
        updates, state = optimizer.update(
            grads, state, params, value=jnp.array(1.0), unknown=None
        )
        params = optax.apply_updates(params, updates)
        rates.append(float(hp.get_learning_rate(state)))
    return params["kernel"], rates


@pytest.mark.parametrize("name", METHODS)
def test_every_row_steps_downhill_and_shows_its_rate(name):
    kernel, rates = run(build_optimizer(name, total_steps=3))
    assert np.all((kernel - PARAMS["kernel"]) * GRADS["kernel"] < 0)
    assert rates[-1] > 0


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("agd", {"gain": 2.0}, lambda: hp.agd(2.0)),
        ("agd", {"momentum": 0.5}, lambda: hp.agd(momentum=0.5)),
        ("sgd", {}, lambda: optax.sgd(0.1, momentum=0.9)),
        ("sgd", {"momentum": 0.0}, lambda: optax.sgd(0.1)),
        ("adam", {}, lambda: optax.adam(1e-3)),
        ("adamw", {"weight_decay": 0.1}, lambda: optax.adamw(1e-3, weight_decay=0.1)),
        ("nadamw", {}, lambda: optax.nadamw(1e-3)),
    ],
)
def test_rows_are_the_factories_they_name(name, settings, expected):
    kernel, _ = run(build_optimizer(name, settings, total_steps=3))
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = expected()
    state = tx.init(params)
    for step in range(3):
        grads = jax.tree.map(lambda g: g * (1 + step), GRADS)  # noqa: B023
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(kernel, params["kernel"], rtol=1e-6)


def test_the_rate_in_the_state_follows_the_schedule():
    settings = {"learning_rate": 0.4, "schedule": "cosine"}
    _, rates = run(build_optimizer("adamw", settings, total_steps=4), 4)
    expected = 0.2 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("agdd", {}, "unknown method 'agdd' .did you mean 'agd'"),
        ("agd", {"learning_rate": 0.1}, "`learning_rate` 0.1 does not apply to .* agd"),
        ("agd", {"schedule": "cosine"}, "`schedule` cosine does not apply"),
        ("sgd", {"gain": 2.0}, "`gain` 2.0 does not apply to method sgd"),
        ("adam", {"weight_decay": 0.1}, "`weight_decay` 0.1 does not apply"),
        ("agd", {"gain": -1.0}, "method agd: `gain` must lie in"),
        ("agd", {"momentum": 1.0}, "`momentum` 1.0 is out of range"),
        ("sgd", {"momentum": 1.0}, "`momentum` 1.0 is out of range"),
        ("adamw", {"weight_decay": -1.0}, "`weight_decay` -1.0 is out of range"),
        ("sgd", {"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ("sgd", {"learning_rate": float("nan")}, "`learning_rate` must be above 0"),
        ("sgd", {"schedule": "foo"}, "unknown schedule 'foo'"),
    ],
)
def test_what_cannot_be_built_is_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(name, settings, total_steps=10)


def test_only_schedules_and_warmup_depend_on_the_length():
    assert not depends_on_total_steps("agd", {})
    assert not depends_on_total_steps("sgd", {"learning_rate": 0.1})
    assert depends_on_total_steps("sgd", {"schedule": "cosine"})
    assert depends_on_total_steps("adam", {"warmup_fraction": 0.1})
