"""Batch statistics are written once, by the training pass, in NNX and in Linen."""

import functools

import jax
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from examples.batch_norm import (
    cross_entropy,
    linen_network,
    main,
    make_data,
    make_step,
    nnx_network,
)

NETWORKS = {"nnx": nnx_network, "linen": linen_network}
KEYS = jax.random.split(jax.random.key(3), 2)


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


@functools.cache
def data(seed, num_examples=32):
    return make_data(jax.random.key(seed), num_examples)


def follow(network, tx, held_out):
    """Returns (params, statistics, state) before the first step and after two."""
    step = jax.jit(make_step(network, tx))
    carries = [(network.params, network.stats, tx.init(network.params))]
    for seed, key in enumerate(KEYS):
        carries.append(step(*carries[-1], data(seed), held_out, key))
    return carries


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_statistics_are_those_of_a_plain_step(network):
    """Bit for bit, and those that a hand computation gives."""
    first, second, _ = follow(network, hp.marthe(optax.sgd, 0.1), data(9))

    @jax.jit
    def plain_step(params, stats, batch, key):
        def loss(params):
            logits, new_stats = network.train(params, stats, batch[0], key)
            return cross_entropy(logits, batch[1]), new_stats

        grads, stats = jax.grad(loss, has_aux=True)(params)
        tx = optax.sgd(0.1)
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates), stats

    params, stats = plain_step(network.params, network.stats, data(0), KEYS[0])
    assert_equal(second[1], stats)
    for leaf, other in zip(
        jax.tree.leaves(second[0]), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-7)
    # A moving average with the decay 0.99 that starts at mean 0 and variance 1.
    kernel = next(k for k in jax.tree.leaves(network.params) if k.shape == (64, 32))
    hidden = np.asarray(data(0)[0], float) @ np.asarray(kernel, float)
    mean, variance = jax.tree.leaves(second[1])
    np.testing.assert_allclose(mean, 0.01 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, 0.99 + 0.01 * hidden.var(0), rtol=1e-5)
    assert not np.array_equal(mean, jax.tree.leaves(first[1])[0])


def test_held_out_examples_never_enter_the_statistics(network):
    """They move the rate at the second call, and so the third call's statistics."""
    tx = hp.marthe(optax.sgd, 0.1)
    x, labels = data(9)
    one = follow(network, tx, (x, labels))
    other = follow(network, tx, (100 * x, labels))
    assert_equal(one[1][1], other[1][1])
    assert_equal(one[2][1], other[2][1])
    found = [c[2][2].hypergradients["learning_rate"] for c in ([*one], [*other])]
    assert found[0] != found[1]


@pytest.mark.parametrize("same_key", [True, False])
def test_the_training_pass_is_compiled_once(network, same_key):
    """By XLA's count: the gradient is the primal of the Hessian-vector product."""
    x, labels = data(0, 256)

    def loss(params, key):
        logits, _ = network.train(params, network.stats, x, key)
        return cross_entropy(logits, labels)

    def product(params, tangent):
        return jax.jvp(lambda p: jax.grad(loss)(p, KEYS[0]), (params,), (tangent,))

    tx = hp.rtho(optax.sgd, 0.1, 1e-3)

    def step(params, state):
        grads = jax.grad(loss)(params, KEYS[0])
        value_fn = lambda p: loss(p, KEYS[0] if same_key else KEYS[1])
        return tx.update(grads, state, params, value_fn=value_fn)

    flops = lambda f, *a: jax.jit(f).lower(*a).compile().cost_analysis()["flops"]
    ratio = flops(step, network.params, tx.init(network.params)) / flops(
        product, network.params, network.params
    )
    if same_key:
        assert 1 < ratio < 1.03
    else:  # what a second pass would look like
        assert ratio > 1.1


@pytest.mark.slow
def test_the_example_runs():
    accuracies = main(num_steps=120)
    assert set(accuracies) == {"NNX", "Linen"}
    assert min(accuracies.values()) > 0.2  # chance is 0.1
