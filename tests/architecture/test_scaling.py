import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hpfree_jax as hp
from tests.architecture.drawing import shape


def mlp(depth):
    def fn(params, x):
        for i in range(depth):
            x = jax.nn.relu(x @ params[str(i)])
        return x

    params = {str(i): shape(4, 4) for i in range(depth)}
    return hp.trace_architecture(fn, params, shape(1, 4))


@pytest.mark.parametrize(
    "base",
    [[3], {3: 1}, (3,), mlp(3), hp.parse_dag("2").with_layers(2)],
    ids=["list", "histogram", "tuple", "architecture", "dag"],
)
def test_the_base_network_gets_exactly_its_rate(base):
    assert hp.scale_learning_rate(0.46, base) == 0.46
    assert hp.scale_learning_rate(0.46, base, base_depths=base, kernel_size=3) == 0.46


def test_the_rate_follows_the_cubes_of_the_depths():
    # 1 path of 3 and 2 of 4 layers: 27 + 128 = 155 against 27.
    expected = 0.2 * (155 / 27) ** -0.5 * 3 / 5
    for depths in ([3, 4, 4], {3: 1, 4: 2}):
        rate = hp.scale_learning_rate(0.2, depths, kernel_size=5)
        np.testing.assert_allclose(rate, expected, rtol=1e-15)
    np.testing.assert_allclose(
        hp.scale_learning_rate(0.2, mlp(6)), 0.2 * 8**-0.5, rtol=1e-15
    )


def test_a_collapse_warns_and_names_the_remedy():
    eighteen = {2: 1}  # ResNet-18: stem, readout and eight blocks of two layers,
    for shortcut in (0, 0, 1, 0, 1, 0, 1, 0):  # three with a layer in the shortcut
        grown = collections.Counter()
        for depth, count in eighteen.items():
            grown[depth + shortcut] += count
            grown[depth + 2] += count
        eighteen = grown
    assert sum(eighteen.values()) == 256
    with pytest.warns(UserWarning, match=r"scaled by 7\.8e-03.*subgraph"):
        factor = hp.scale_learning_rate(1.0, eighteen)
    assert factor == pytest.approx(7.8e-3, rel=0.01)


def test_counts_beyond_floats_do_not_overflow():
    with pytest.warns(UserWarning, match="scaled by"):
        assert hp.scale_learning_rate(1.0, {4: 10**600}) == 0.0


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf")])
def test_bad_rates_are_named(bad):
    with pytest.raises(ValueError, match="`base_learning_rate` must be positive"):
        hp.scale_learning_rate(bad, [3])
    with pytest.raises(ValueError, match="`kernel_size` must be positive"):
        hp.scale_learning_rate(0.1, [3], kernel_size=bad)
    with pytest.raises(ValueError, match="`candidates` must be positive"):
        hp.find_max_learning_rate(lambda r: jnp.zeros(1), [0.1, bad])


def test_bad_depths_are_named():
    with pytest.raises(ValueError, match="`depths` has no path with a layer"):
        hp.scale_learning_rate(0.1, [0, 0])
    with pytest.raises(ValueError, match=r"1 path\(s\) of depth 2.5"):
        hp.scale_learning_rate(0.1, [2.5])
    with pytest.raises(ValueError, match=r"`base_depths` has -1 path\(s\) of depth 3"):
        hp.scale_learning_rate(0.1, [3], base_depths={3: -1})
    with pytest.raises(TypeError, match="Parse it first"):
        hp.scale_learning_rate(0.1, "2_02")


def descend(rate, steps=20):
    """Gradient descent on the mean of (x - 1)^2 and 10 (y + 2)^2: stable below 0.1."""
    scale, target = jnp.array([1.0, 10.0]), jnp.array([1.0, -2.0])
    loss = lambda z: jnp.sum(scale * (z - target) ** 2) / 2

    def step(z, _):
        return z - rate * jax.grad(loss)(z), loss(z)

    return jax.lax.scan(step, jnp.zeros(2), length=steps)[1]


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_rate_of_lowest_last_loss_wins(vectorize):
    calls = []

    def run(rate):
        calls.append(None)
        return descend(rate)

    rates = [0.01, 0.03, 0.1, 0.19, 0.3, 1e9]  # 0.2 and more diverge
    found = hp.find_max_learning_rate(run, rates, vectorize=vectorize)
    losses = [float(descend(rate)[-1]) for rate in rates[:4]]
    assert found == rates[int(np.argmin(losses))] == 0.1
    assert len(calls) == 1  # traced, and so compiled, once


def test_a_run_with_a_nan_never_wins():
    run = lambda rate: jnp.where(rate > 0.5, jnp.array([jnp.nan, -9.0]), rate)
    assert hp.find_max_learning_rate(run, [0.3, 0.2, 0.9]) == 0.2
    with pytest.raises(ValueError, match="Every one of the 2 runs"):
        hp.find_max_learning_rate(run, [0.8, 0.9])


def test_a_run_must_return_all_losses():
    with pytest.raises(ValueError, match="`run` must return the losses of all steps"):
        hp.find_max_learning_rate(lambda rate: rate, [0.1])
    with pytest.raises(ValueError, match="non-empty sequence"):
        hp.find_max_learning_rate(descend, [])
