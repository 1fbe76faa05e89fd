"""FLOPs, memory and compiled size of the whole step, by XLA's count."""

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


@functools.cache
def compile_step(tx, validates=False):
    """Of one step on a network of four dense layers; returns it and its state."""
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
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted.lower(params, state, batch, batch).compile(), state


def flops(tx, validates=False):
    return compile_step(tx, validates)[0].cost_analysis()["flops"]


PLAIN = optax.sgd(1e-3)


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
    ratio = flops(tx, validates) / flops(PLAIN)
    assert ratio <= mark
    assert ratio > mark - 0.3  # the count means something


def num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


ADAM = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999}
PARAM_BYTES = 4 * (3 * WIDTH * WIDTH + WIDTH * 10)
SCALARS = 200  # bytes: all scalars of a state together


@pytest.mark.parametrize(
    ("tx", "copies"),
    [
        # Adam's state holds two copies of the parameters, a tangent one more of each.
        (hp.hd(optax.adam, 1e-3), 2 + 1),
        (hp.rtho(optax.adam, 1e-3, 1e-6), 2 + 3),
        (hp.marthe(optax.adam, 1e-3), 2 + 3 + 1),
        (hp.hypergradient(optax.adam, ADAM), 2 + 3 * 3),
        (hp.rtho(SGD, 1e-3, 1e-6), 1 + 2),
    ],
    ids=["hd", "rtho", "marthe", "three scalars", "momentum"],
)
def test_the_state_holds_one_tangent_for_each_scalar(tx, copies):
    params = [jnp.zeros((WIDTH, WIDTH))] * 3 + [jnp.zeros((WIDTH, 10))]
    state = jax.eval_shape(tx.init, params)
    assert 0 < num_bytes(state) - copies * PARAM_BYTES < SCALARS
    # Nothing grows: a step turns a state into one of the same bytes.
    grads = params
    value_fn = lambda params: sum(jnp.sum(leaf**2) for leaf in params)
    update = lambda state: tx.update(grads, state, params, value_fn=value_fn)[1]
    assert num_bytes(jax.eval_shape(update, state)) == num_bytes(state)


def test_the_compiled_step_keeps_the_state_in_place():
    """Donated, its outputs are its inputs; other memory is some copies of both."""
    compiled, state = compile_step(hp.rtho(SGD, 1e-3, 1e-6))
    memory = compiled.memory_analysis()
    kept = num_bytes(state) + PARAM_BYTES
    batches = 2 * 4 * BATCH * (WIDTH + 10)
    unused = batches / 2  # the held-out one
    assert abs(kept + batches - unused - memory.argument_size_in_bytes) < SCALARS
    assert abs(kept - memory.alias_size_in_bytes) < SCALARS
    # Activations and their tangents, forward and back; gradient, its tangent; a state.
    activations = 2 * 2 * 4 * 4 * BATCH * WIDTH
    assert memory.temp_size_in_bytes < activations + 2 * PARAM_BYTES + kept


@pytest.mark.parametrize(
    ("tx", "lines"),
    [
        (hp.hd(optax.adam, 1e-3), 280),
        (hp.marthe(optax.adam, 1e-3), 600),
        pytest.param(hp.hypergradient(optax.adam, ADAM), 1250, marks=pytest.mark.slow),
    ],
    ids=["hd", "marthe", "three scalars"],
)
def test_the_compiled_update_grows_linearly_with_the_leaves(tx, lines):
    # As in tests/test_agd.py: sums over the leaves, copied into each leaf's update,
    # would make the program grow with the square of their number. Lines of a leaf: 60
    # for plain Adam.
    def size(num_leaves):
        params = [jnp.ones((4, 4))] * num_leaves
        value_fn = lambda params: sum(jnp.sum(leaf**3) for leaf in params)
        update = lambda state: tx.update(params, state, params, value_fn=value_fn)
        text = jax.jit(update).lower(tx.init(params)).compile().as_text()
        return text.count("\n")

    few, many = size(10), size(40)
    assert many < 4 * few
    assert many < 40 * lines
