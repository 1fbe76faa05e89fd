"""Gradients at the ends of a dtype's range: the direction is that of ordinary ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from hpfree_jax._base import all_finite

SHAPE_FREE = [
    lambda: hp.scale_by_steepest_descent(),
    lambda: hp.scale_by_steepest_descent(momentum=0.9, nesterov=True),
]


def directions(tx, grads):
    """The updates of the last of three steps, as unit vectors by leaf."""
    state = tx.init(grads)
    for _ in range(3):
        updates, state = tx.update(grads, state)
    flat = {name: np.float64(leaf).ravel() for name, leaf in updates.items()}
    return {name: leaf / np.linalg.norm(leaf) for name, leaf in flat.items()}


@pytest.mark.parametrize("make", SHAPE_FREE)
@pytest.mark.parametrize("power", [-90, -40, 40, 126])
def test_the_direction_does_not_depend_on_the_size_of_the_gradient(make, power):
    ordinary = {
        "kernel": jnp.array([[1.5, -0.5], [0.25, 1.0]]),
        "bias": jnp.array([1.0, -1.5]),
    }
    extreme = jax.tree.map(lambda leaf: leaf * 2.0**power, ordinary)
    expected, found = directions(make(), ordinary), directions(make(), extreme)
    for name, direction in expected.items():
        np.testing.assert_allclose(found[name], direction, rtol=1e-4, atol=1e-5)


def test_one_huge_entry_among_ordinary_ones():
    kernel = jnp.ones((2, 2)).at[0, 0].set(3e38)
    tx = hp.scale_by_steepest_descent()
    updates, _ = tx.update({"kernel": kernel}, tx.init({"kernel": kernel}))
    assert np.all(np.isfinite(updates["kernel"]))


def test_a_constant_gradient_at_the_end_of_the_range_moves_hp_auto():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    model = lambda p, x: x @ p["kernel"] + p["bias"]
    arch = hp.trace_architecture(model, params, jnp.ones((1, 2)))
    tx = hp.auto(params, arch, total_steps=10)
    huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3e38), params)
    ordinary = jax.tree.map(jnp.ones_like, params)
    steps = []
    for grads in (huge, ordinary):
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(grads, state, params)
        assert state.count == 4
        steps.append(updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *steps
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64, jnp.bfloat16])
def test_finite_numbers_whose_sum_overflows_are_finite(dtype):
    tree = {"a": jnp.full(4, 2e38, dtype), "key": jax.random.key(0)}
    assert all_finite(tree)
    assert not all_finite({**tree, "b": jnp.array([1, jnp.inf], dtype)})
    assert not all_finite({**tree, "b": jnp.array([1, jnp.nan], dtype)})


def test_hd_and_autowu_count_such_updates_as_finite():
    grads = jnp.full(4, 2e38)
    sgd = hp.hd(optax.sgd, 0.5)
    _, state = sgd.update(grads, sgd.init(grads), grads)
    assert state.count == 1
    autowu = hp.scale_by_autowu(100, 4, max_warmup_fraction=0.2, test_every=1)
    updates, state = autowu.update(grads, autowu.init(grads), grads, value=1.0)
    assert state.num_skipped == 0
    assert jnp.all(updates < 0)


def test_an_infinite_state_value_is_replaced_and_not_multiplied():
    tx = hp.hypergradient(optax.sgd, {"learning_rate": 0.5}, 1e-4, discount=0)
    state = tx.init(jnp.ones(2))._replace(
        discount=jnp.array(jnp.inf), hyper_learning_rate=jnp.array(jnp.inf)
    )
    _, state = tx.update(jnp.ones(2), state, jnp.ones(2))
    assert state.discount == 0
    assert state.hyper_learning_rate == np.float32(1e-4)
