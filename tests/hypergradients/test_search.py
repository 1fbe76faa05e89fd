"""The search of the largest hyper-learning-rate that does not diverge."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp


def training(rate):
    """RTHO on a bowl whose rate may reach 2 / 3."""
    loss = lambda w: jnp.sum(jnp.array([1.0, 3.0]) / 2 * w**2)
    tx = hp.rtho(optax.sgd, 0.01, rate)
    w = jnp.array([1.0, -2.0])

    def step(carry, _):
        w, state = carry
        value, grads = jax.value_and_grad(loss)(w)
        updates, state = tx.update(grads, state, w, value_fn=loss)
        return (optax.apply_updates(w, updates), state), value

    return jax.lax.scan(step, (w, tx.init(w)), length=40)[1]


def test_the_rate_found_is_the_largest_that_trains():
    candidates = [10.0**-k for k in range(-3, 7)]
    found = hp.find_hyper_learning_rate(training, candidates)
    losses = {rate: np.array(training(rate)) for rate in candidates}
    trains = [r for r, loss in losses.items() if loss[-1] < loss[0] / 2]
    assert found == max(trains)
    assert found < max(candidates)


def curve(shape):
    return lambda rate: jnp.where(rate < 1, 2.0 - jnp.linspace(0, 1, 20), shape)


UP = 2 + np.linspace(0, 1, 20)
BACK = np.concatenate([np.linspace(2, 1, 10), np.full(10, 1.9)])
NAN = np.where(np.arange(20) == 7, np.nan, 1.0)
DIP = np.concatenate([np.linspace(2, 1, 15), np.full(5, 1.2)])


@pytest.mark.parametrize("shift", [0.0, -10.0])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize(
    ("shape", "expected"), [(UP, 0.1), (BACK, 0.1), (NAN, 0.1), (DIP, 10.0)]
)
def test_what_diverges(shape, expected, scale, shift):
    run = lambda rate: scale * curve(shape)(rate) + shift * scale
    assert hp.find_hyper_learning_rate(run, [10.0, 0.1, 0.01]) == expected


def test_one_compilation():
    traces = []

    def run(rate):
        traces.append(1)
        return 1 - rate * jnp.arange(5.0)

    assert hp.find_hyper_learning_rate(run, np.array([0.1, 0.2, 0.3])) == pytest.approx(
        0.3
    )
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("run", "candidates", "words"),
    [
        (training, [], "`candidates` must be a list of rates"),
        (training, 0.1, "`candidates` must be a list of rates"),
        (training, [0.1, -1.0], "`candidates` must be positive and finite"),
        (training, [np.inf], "`candidates` must be positive and finite"),
        (lambda rate: rate, [0.1], r"`run` must return the losses.*got shape \(\)"),
        (lambda rate: jnp.arange(9.0) * rate, [0.1, 1.0], "Every candidate diverges"),
        (lambda rate: jnp.full(9, jnp.nan), [0.1], "Every candidate diverges"),
    ],
)
def test_bad_input_is_named(run, candidates, words):
    with pytest.raises(ValueError, match=words):
        hp.find_hyper_learning_rate(run, candidates)
