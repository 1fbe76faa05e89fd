"""The learning rate in force, read from states that are not ours or hold several."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import hpfree_jax as hp

PARAMS = {"kernel": jnp.ones((2, 2)), "learning_rate": jnp.ones(2)}


def test_an_injected_schedule_is_read_as_applied():
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=schedule)
    state = tx.init(PARAMS)
    for expected in (1.0, 0.75, 0.5):
        _, state = tx.update(PARAMS, state, PARAMS)
        assert hp.get_learning_rate(state) == expected


def test_a_method_knows_better_than_what_is_injected_into_it():
    def factory(learning_rate):
        return optax.chain(hp.scale_by_agd(), optax.scale(learning_rate))

    tx = optax.inject_hyperparams(factory)(learning_rate=0.5)
    _, state = tx.update([jnp.ones((2, 2))], tx.init([jnp.ones((2, 2))]))
    assert hp.get_learning_rate(state) == state.inner_state[0].learning_rate


def test_the_rate_of_a_hypergradient_is_neither_its_tangent_nor_the_rate_of_the_rate():
    meta = optax.inject_hyperparams(optax.adam)(learning_rate=0.25)
    tx = hp.hd(optax.sgd, 0.5, meta)
    assert hp.get_learning_rate(tx.init(PARAMS)) == 0.5


def test_the_rate_of_a_schedule_is_that_of_its_chain_and_of_no_other():
    autowu = hp.autowu(hp.scale_by_agd(), 80, 4)
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    state = autowu.init(params)
    assert hp.get_learning_rate(state) == state[-1].learning_rate
    both = optax.partition({"a": autowu, "b": hp.agd()}, {"a": "a", "b": "b"})
    with pytest.raises(ValueError, match=r"2 learning rates"):
        hp.get_learning_rate(both.init(params))


def test_a_schedule_of_another_package_is_read_like_ours():
    class RampState(NamedTuple):
        learning_rate: jax.Array
        next_learning_rate: jax.Array

    ramp = optax.GradientTransformation(
        lambda params: RampState(jnp.float32(0.25), jnp.float32(0.5)),
        lambda updates, state, params=None: (updates, state),
    )
    tx = optax.chain(hp.scale_by_agd(), ramp)
    assert hp.get_learning_rate(tx.init([jnp.ones((2, 2))])) == 0.25


def test_a_batched_state_gives_a_batch_of_rates():
    params = jnp.ones((3, 2, 2))
    assert hp.get_learning_rate(jax.vmap(hp.agd().init)(params)).shape == (3,)


def test_no_rate_and_several_rates_are_errors():
    with pytest.raises(ValueError, match=r"holds no learning rate.*inject_hyperparams"):
        hp.get_learning_rate(optax.adam(1e-3).init(PARAMS))
    tx = optax.partition(
        {"a": hp.agd(), "b": hp.agd()}, {"kernel": "a", "learning_rate": "b"}
    )
    params = {"kernel": jnp.ones((2, 2)), "learning_rate": jnp.ones((2, 2))}
    state = tx.init(params)
    with pytest.raises(
        ValueError, match=r"2 learning rates: state.*inner_states\['a'\]"
    ):
        hp.get_learning_rate(state)
    assert hp.get_learning_rate(state.inner_states["a"]) == 0
