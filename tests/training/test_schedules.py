import jax
import numpy as np
import optax
import pytest

from hpfree_jax.training import SCHEDULES, make_schedule


def values(name, steps, total=70, **settings):
    return jax.vmap(make_schedule(name, 0.5, total, **settings))(np.array(steps))


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("constant", [0, 69], [0.5, 0.5]),
        ("staircase", [0, 34, 35, 52, 53, 69], [0.5, 0.5, 0.05, 0.05, 0.005, 0.005]),
        ("exponential", [0, 35, 70], [0.5, 0.05, 0.005]),
        # Cycles of 10, 20 and 40 steps: starts, middles and last steps.
        (
            "cosine_restarts",
            [0, 5, 11, 20, 31, 50],
            [0.5, 0.25, 0.497, 0.25, 0.499, 0.25],
        ),
    ],
)
def test_shapes_match_hand_computed_values(name, steps, expected):
    np.testing.assert_allclose(values(name, steps), expected, rtol=2e-3)


def test_cosine_is_the_one_of_optax():
    expected = optax.cosine_decay_schedule(0.5, 70)(np.arange(71))
    np.testing.assert_allclose(values("cosine", range(71)), expected, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_linearly_and_then_the_shape_is_compressed(name):
    # 14 of 70 steps warm up; the other 56 hold the whole shape.
    rates = values(name, range(70), warmup_fraction=0.2)
    np.testing.assert_allclose(rates[:14], 0.5 * np.arange(1, 15) / 14, rtol=1e-5)
    np.testing.assert_allclose(rates[14:], values(name, range(56), 56), rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_stay_within_bounds_past_the_end(name):
    rates = values(name, range(0, 200, 7))
    assert np.all((rates >= 0) & (rates <= 0.5))


@pytest.mark.parametrize(
    ("name", "fraction", "message"),
    [
        ("cosinus", 0.0, "unknown schedule 'cosinus' .did you mean 'cosine'"),
        ("cosine", 1.0, r"`warmup_fraction` must lie in \[0, 1\), got 1.0"),
        ("cosine", -0.1, "`warmup_fraction` must lie in"),
    ],
)
def test_bad_arguments_are_named(name, fraction, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(name, 0.1, 10, fraction)
