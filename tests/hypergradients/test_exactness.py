"""Forward mode against reverse mode through the unrolled run, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from tests.hypergradients.problem import draw, loss, make_problem, reverse_mode, run

RATE = {"learning_rate": 0.1}
SGD = functools.partial(optax.sgd, momentum=0.9)
LION = functools.partial(optax.lion, weight_decay=0.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def clipped(learning_rate, max_norm):
    return optax.chain(
        optax.clip_by_global_norm(max_norm), optax.adamw(learning_rate, b1=0.8)
    )


def scheduled(learning_rate):
    return optax.sgd(lambda count: learning_rate * (1 - 0.1 * count), momentum=0.9)


def masked(learning_rate):
    return optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), {"kernel": True, "bias": False}),
        optax.partition(
            {"fast": optax.adam(learning_rate), "slow": optax.sgd(learning_rate / 2)},
            {"kernel": "fast", "bias": "slow"},
        ),
    )


def noisy(learning_rate):
    """Has a random key and an integer in its state."""
    return optax.chain(
        optax.add_noise(0.01, 0.55, jax.random.key(0)), optax.adam(learning_rate)
    )


def conditional(learning_rate):
    """Has a branch."""
    return optax.apply_if_finite(optax.adam(learning_rate), 3)


CASES = {
    "sgd": (optax.sgd, RATE),
    "momentum": (optax.sgd, {**RATE, "momentum": 0.9}),
    "nesterov": (
        functools.partial(optax.sgd, nesterov=True),
        {**RATE, "momentum": 0.8},
    ),
    "adam": (optax.adam, {**RATE, "b1": 0.9, "b2": 0.99}),
    "adamw": (optax.adamw, {**RATE, "b1": 0.9, "b2": 0.99, "weight_decay": 0.1}),
    "nadamw": (optax.nadamw, {**RATE, "b1": 0.9, "weight_decay": 0.1}),
    "rmsprop": (optax.rmsprop, {**RATE, "decay": 0.9, "momentum": 0.5}),
    "lion": (optax.lion, {**RATE, "weight_decay": 0.1}),
    "adafactor": (
        functools.partial(optax.adafactor, min_dim_size_to_factor=2),
        {**RATE, "weight_decay_rate": 0.01},
    ),
    "lamb": (optax.lamb, {**RATE, "weight_decay": 0.1}),
    "clipping inside": (clipped, {**RATE, "max_norm": 0.05}),
    "schedule inside": (scheduled, RATE),
    "masks inside": (masked, RATE),
    "noise inside": (noisy, RATE),
    "a branch inside": (conditional, RATE),
    "agd": (
        functools.partial(
            hp.agd,
            layout=hp.Layout({"kernel": hp.Matrix(0, 1), "bias": hp.Vector("kernel")}),
            momentum=0.5,
        ),
        {"gain": 2.0},
    ),
}


# What the others are made of too, in other combinations.
SLOW = {"adamw", "nadamw", "adafactor", "lamb", "clipping inside", "noise inside"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else [])
        for case in CASES
    ],
)
def test_discount_one_is_the_true_derivative(case):
    inner, hyperparams = CASES[case]
    problem = make_problem()
    states, _ = run(hp.hypergradient(inner, hyperparams, 0.0), problem)
    expected = reverse_mode(
        inner, {name: jnp.asarray(h) for name, h in hyperparams.items()}, problem
    )
    for name in hyperparams:
        found = states.hypergradients[name]
        assert found.dtype == jnp.float64
        assert abs(found[-1] - expected[name]) <= 1e-8 * max(1, abs(expected[name]))
        assert expected[name] != 0
        assert states.hyperparams[name][-1] == hyperparams[name]
    assert states.num_non_finite[-1] == 0


def test_lion_has_no_derivative_with_respect_to_b1():
    """Lion moves by a sign, which is flat: exactly zero, in both modes."""
    problem = make_problem()
    inner = functools.partial(optax.lion, 0.001)
    states, _ = run(hp.hypergradient(inner, {"b1": 0.9}, 0.0), problem)
    assert np.all(states.hypergradients["b1"] == 0)
    assert reverse_mode(inner, {"b1": jnp.asarray(0.9)}, problem)["b1"] == 0


def test_the_training_loss_is_the_default_objective():
    params, batches, _ = make_problem()
    both = params, batches, batches
    tx = hp.hypergradient(SGD, RATE, 0.01)
    expected, _ = run(tx, both)
    state, w = tx.init(params), params

    @jax.jit
    def step(w, state, batch):
        value_fn = lambda p: loss(p, batch)
        grads = jax.grad(value_fn)(w)
        updates, state = tx.update(grads, state, w, value_fn=value_fn)
        return optax.apply_updates(w, updates), state

    for t in range(3):
        w, state = step(w, state, jax.tree.map(lambda leaf, t=t: leaf[t], batches))
    np.testing.assert_allclose(
        state.hyperparams["learning_rate"],
        expected.hyperparams["learning_rate"][2],
        rtol=1e-12,
    )


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9])
def test_the_discount_weighs_the_past_geometrically(discount):
    """D_T = sum over steps k of discount^(T - 1 - k) dE(w_T) / d rate_k."""
    params, batches, held_out = problem = make_problem()
    num_steps = len(batches[0]) - 1

    def last_loss(rates):
        trace, w = jax.tree.map(jnp.zeros_like, params), params
        for t in range(num_steps):
            grads = jax.grad(loss)(w, jax.tree.map(lambda leaf, t=t: leaf[t], batches))
            trace = jax.tree.map(lambda m, g: 0.9 * m + g, trace, grads)
            w = jax.tree.map(lambda p, m, t=t: p - rates[t] * m, w, trace)
        return loss(w, jax.tree.map(lambda leaf: leaf[-1], held_out))

    per_step = jax.jit(jax.grad(last_loss))(jnp.full(num_steps, 0.1))
    weights = float(discount) ** np.arange(num_steps - 1, -1, -1)
    states, _ = run(hp.hypergradient(SGD, RATE, 0.0, discount=discount), problem)
    np.testing.assert_allclose(
        states.hypergradients["learning_rate"][-1], weights @ per_step, rtol=1e-10
    )


def dead(params, batch):
    """A loss in which the bias does not appear: only its decay moves it."""
    return loss({**params, "bias": jnp.zeros(4)}, batch)


@pytest.mark.parametrize(
    ("inner", "options"),
    [
        (optax.adam, {}),
        (optax.adamw, {"weight_decay": 0.1}),
        (optax.lamb, {"weight_decay": 0.1}),
        (optax.rmsprop, {}),
    ],
    ids=["adam", "adamw", "lamb", "rmsprop"],
)
def test_a_leaf_without_gradient_has_the_derivative_of_its_decay(inner, options):
    """Zero gradient, zero second moment: Adam's root has no derivative there."""
    params, batches, held_out = make_problem()
    tx = hp.hypergradient(functools.partial(inner, **options), RATE, 0.0, discount=1)

    def step(carry, batch):
        params, state = carry
        value_fn = lambda p: dead(p, batch)
        updates, state = tx.update(
            jax.grad(value_fn)(params),
            state,
            params,
            value_fn=value_fn,
            validation_fn=lambda p: loss(p, jax.tree.map(lambda x: x[-1], held_out)),
        )
        return (optax.apply_updates(params, updates), state), state

    carry = (params, tx.init(params))
    states = jax.jit(lambda: jax.lax.scan(step, carry, batches)[1])()
    assert states.num_non_finite[-1] == 0

    @jax.jit
    def last_loss(rate):
        plain = inner(rate, **options)
        state, w = plain.init(params), params
        for t in range(len(batches[0]) - 1):
            grads = jax.grad(dead)(w, jax.tree.map(lambda x, t=t: x[t], batches))
            updates, state = plain.update(grads, state, w)
            w = optax.apply_updates(w, updates)
        return loss(w, jax.tree.map(lambda x: x[-1], held_out))

    slope = (last_loss(0.1 + 1e-6) - last_loss(0.1 - 1e-6)) / 2e-6
    found = states.hypergradients["learning_rate"][-1]
    np.testing.assert_allclose(found, slope, rtol=1e-7)


@pytest.mark.parametrize("inner", [optax.adam, optax.lamb, SGD, LION])
def test_a_start_without_any_gradient_does_no_harm(inner):
    params, batches, _ = make_problem()
    tx = hp.hypergradient(inner, RATE, 0.01, discount=None)
    value_fn = lambda p: loss(p, jax.tree.map(lambda x: x[0], batches))
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    _, state = tx.update(zeros, state, params, value_fn=lambda p: 0 * value_fn(p))
    assert all(np.all(z == 0) for z in jax.tree.leaves(state.tangents))
    update = jax.jit(
        lambda s: tx.update(jax.grad(value_fn)(params), s, params, value_fn=value_fn)
    )
    for _ in range(2):
        _, state = update(state)
    for leaf in jax.tree.leaves(state):
        assert np.all(np.isfinite(leaf))
    assert state.num_non_finite == 0
    assert state.count == 3


def test_a_complex_leaf_is_two_real_ones():
    """With the conjugate gradient, as everywhere in optax."""
    bowl = lambda x, y: jnp.sum((x - 1) ** 2 + 3 * (y + x) ** 2)
    pair = lambda p: bowl(p["x"], p["y"])
    single = lambda p: bowl(jnp.real(p["z"]), jnp.imag(p["z"]))
    x, y = draw(0, 3), draw(1, 3)
    found = []
    for params, value_fn in (({"x": x, "y": y}, pair), ({"z": x + 1j * y}, single)):
        tx = hp.hypergradient(SGD, RATE, 1e-3, discount=0.9)
        state, w = tx.init(params), params
        for _ in range(4):
            grads = jax.tree.map(jnp.conj, jax.grad(value_fn)(w))
            updates, state = tx.update(grads, state, w, value_fn=value_fn)
            w = optax.apply_updates(w, updates)
        found.append([state.hyperparams["learning_rate"], value_fn(w)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
