"""XLA's FLOP count of the whole step: no second gradient hides in it."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import hpfree_jax as hp

WIDTH, BATCH = 128, 512
THREE = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999}
SGD = functools.partial(optax.sgd, momentum=0.9)


def loss(params, batch):
    x, y = batch
    for kernel in params[:-1]:
        x = jnp.tanh(x @ kernel)
    return jnp.mean((x @ params[-1] - y) ** 2)


def flops(tx, validates=False):
    """Of one step on a network of four dense layers, without running it."""
    tx = optax.with_extra_args_support(tx)

    def step(params, state, batch, held_out):
        grads = jax.grad(loss)(params, batch)
        validation = {"validation_fn": lambda p: loss(p, held_out)} if validates else {}
        updates, state = tx.update(
            grads, state, params, value_fn=lambda p: loss(p, batch), **validation
        )
        return optax.apply_updates(params, updates), state

    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    params = [array((WIDTH, WIDTH))] * 3 + [array((WIDTH, 10))]
    batch = array((BATCH, WIDTH)), array((BATCH, 10))
    state = jax.eval_shape(tx.init, params)
    compiled = jax.jit(step).lower(params, state, batch, batch).compile()
    return compiled.cost_analysis()["flops"]


@functools.cache
def plain():
    return flops(optax.sgd(1e-3))


@pytest.mark.parametrize(
    ("tx", "validates", "mark"),
    [
        (hp.hd(optax.sgd, 1e-3), False, 1.05),
        (hp.rtho(SGD, 1e-3, 1e-6), False, 2.8),
        (hp.marthe(SGD, 1e-3), False, 2.8),
        (hp.marthe(SGD, 1e-3), True, 3.8),
        (hp.hypergradient(optax.adam, THREE), False, 2.8 + 2 * 1.8),
    ],
    ids=["hd", "rtho", "marthe", "marthe, validation", "three scalars"],
)
def test_the_flops_of_a_step(tx, validates, mark):
    ratio = flops(tx, validates) / plain()
    assert ratio <= mark
    assert ratio > mark - 0.3  # the count means something
