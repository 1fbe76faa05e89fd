"""A tiny regression network with a new batch at every step, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

NUM_STEPS = 6


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def make_problem():
    """Returns (params, training batches, validation batches)."""
    params = {"kernel": draw(0, 3, 4), "bias": draw(1, 4)}
    steps = NUM_STEPS + 1
    batches = (draw(2, steps, 6, 3), draw(3, steps, 6, 4))
    held_out = (draw(4, steps, 6, 3), draw(5, steps, 6, 4))
    return params, batches, held_out


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["kernel"] + params["bias"]) - y) ** 2)


def run(tx, problem, loss=loss, with_value_fn=True):
    """Returns the states after each call; call t validates with held-out batch t."""
    params, *batches = problem

    def step(carry, batches):
        params, state = carry
        batch, held_out = batches
        updates, state = tx.update(
            jax.grad(loss)(params, batch),
            state,
            params,
            value_fn=(lambda p: loss(p, batch)) if with_value_fn else None,
            validation_fn=lambda p: loss(p, held_out),
        )
        return (optax.apply_updates(params, updates), state), (state, params)

    init = (params, tx.init(params))
    return jax.jit(lambda: jax.lax.scan(step, init, tuple(batches))[1])()


def reverse_mode(inner, hyperparams, problem, loss=loss):
    """d loss(w_T, held-out batch T) / d hyperparams, back through the unrolled run."""
    params, batches, held_out = problem

    def last_loss(hyperparams):
        tx = inner(**hyperparams)

        def step(carry, batch):
            params, state = carry
            grads = jax.grad(loss)(params, batch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        past = jax.tree.map(lambda leaf: leaf[:-1], batches)
        (last, _), _ = jax.lax.scan(step, (params, tx.init(params)), past)
        return loss(last, jax.tree.map(lambda leaf: leaf[-1], held_out))

    return jax.jit(jax.grad(last_loss))(hyperparams)
