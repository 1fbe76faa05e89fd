"""Traces of the original (float64): the Gaussian process, and every recorded run."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hpfree_jax as hp
from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._gaussian_process import Points
from hpfree_jax.warmup._likelihood import negative_log_likelihood
from tests.reference import STORED_AUTOWU, load_case, load_stored
from tests.warmup import recurrence

EXACT = 1e-9
CAPACITY = 80  # of the padded data, the same for all cases


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnums=2)
def fit_and_predict(state, points, lengthscale):
    """One round as the original makes it: its mean is reset, then 100 steps."""
    mean = jnp.sum(points.y) / jnp.sum(points.is_present)  # absent ones are 0 here
    state = state._replace(parameters=state.parameters._replace(mean=mean))
    rotated = gaussian_process.rotate(points, lengthscale)
    before = negative_log_likelihood(state.parameters, rotated, lengthscale)
    state, is_usable = gaussian_process.fit(state, points, lengthscale, 100)
    grid = jnp.linspace(0, 1, 500)
    prediction = gaussian_process.predict(state.parameters, points, grid, lengthscale)
    probability = gaussian_process.past_minimum_probability(prediction)
    return before, state, is_usable, prediction, probability


@pytest.mark.parametrize(
    "name",
    [
        "gp_u_shape",
        "gp_decreasing",
        "gp_nan_inf",
        pytest.param("gp_lengthscale_1", marks=pytest.mark.slow),
        "gp_constant_y",
        "gp_few_points",
    ],
)
def test_parity_of_the_gaussian_process(name):
    settings, trace = load_case("autowu", name)
    # Two points: the mean's gradient is zero but for rounding, which Adam blows up.
    tolerance = 2e-4 if name == "gp_few_points" else EXACT
    state, end = gaussian_process.init(), 0
    for index, size in enumerate(settings["block_sizes"]):
        end += size
        y = np.zeros(CAPACITY)
        y[:end] = trace["y"][:end]
        is_present = (np.arange(CAPACITY) < end) & np.isfinite(y)
        points = Points(
            jnp.arange(CAPACITY) / end,
            jnp.asarray(np.where(is_present, y, 0)),
            jnp.asarray(is_present),
        )
        before, state, is_usable, prediction, probability = fit_and_predict(
            state, points, settings["lengthscale"]
        )
        assert is_usable
        found = {
            "neg_mll_before": before,
            "noise": state.parameters.noise,
            "mean": state.parameters.mean,
            "outputscale": state.parameters.outputscale,
            "pred_mean": prediction.mean,
            "pred_var": prediction.variance(),
            "prob": probability,
        }
        for key, value in found.items():
            expected = trace[f"round{index}.{key}"]
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)
        block = prediction.factor[trace["sub_index"]]
        np.testing.assert_allclose(
            block @ block.T, trace[f"round{index}.pred_cov_sub"], atol=tolerance
        )


def test_parity_of_the_probability():
    _, trace = load_case("autowu", "past_minimum_prob")
    for i in range(3):
        factor = jnp.linalg.cholesky(trace[f"cov{i}"])
        prediction = gaussian_process.Prediction(jnp.asarray(trace[f"mean{i}"]), factor)
        found = gaussian_process.past_minimum_probability(prediction)
        np.testing.assert_allclose(found, trace[f"prob{i}"], rtol=1e-12)


OPTIONS = {
    "min_lr": "min_learning_rate",
    "max_lr": "max_learning_rate",
    "decay_phase_stat": "decay_stat",
    "decay_phase_factor": "decay_factor",
}
NUMBERS = {  # that one compiled run takes, with their defaults
    "min_learning_rate": 1e-5,
    "max_learning_rate": 1.0,
    "decay_factor": 1.0,
    "cooldown_fraction": 0.2,
}
# With the same words and sizes: one compilation.
FAST = [
    "run_default_u",
    "run_decreasing",
    "run_nan_inf_u",
    "run_noisy_u",
    "run_cooldown_fraction_0",
    "run_cooldown_fraction_1",
]
SLOW = [
    "run_plateau_decreasing",
    "run_few_points",
    "run_immediate_cosine_u",
    "run_immediate_halfcosine_u",
    "run_linear_halfcosine_u",
    "run_epoch_exp_u",
    "run_epoch_linear_immediate_u",
    "run_decreasing_immediate",
    "run_decreasing_linear_epoch",
    "run_nan_inf_immediate_u",
    "run_zero_warmup",
    "run_zero_warmup_immediate",
    "run_lr_range_short_warmup",
    "run_long_warmup_meets_cooldown",
    "run_noisy_linear_immediate_u",
    "run_one_step_epochs",
]
ALL_RUNS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@functools.cache
def compile_run(words):
    """A run under numbers that are traced, for arguments that are not."""

    @jax.jit
    def run(numbers, losses):
        tx = hp.scale_by_autowu(**dict(words), **numbers)
        direction = jnp.ones(())

        def step(state, loss):
            updates, state = tx.update(direction, state, direction, value=loss)
            return state, (-updates, state)

        return jax.lax.scan(step, tx.init(direction), losses)[1]

    return run


def run(losses, arguments):
    """Returns (applied rates, states after each call)."""
    words = {name: value for name, value in arguments.items() if name not in NUMBERS}
    numbers = {name: arguments.get(name, NUMBERS[name]) for name in NUMBERS}
    compiled = compile_run(tuple(sorted(words.items())))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # few tests
        out = compiled(jax.tree.map(jnp.asarray, numbers), jnp.asarray(losses))
    return jax.tree.map(np.asarray, out)


def load_run(name):
    """Returns (trace, our arguments) of a recorded run."""
    load = load_stored if name in STORED_AUTOWU else load_case
    settings, trace = load("autowu", name)
    arguments = {
        OPTIONS.get(key, key): value
        for key, value in settings.items()
        if key not in ("defaults", "summary", "total_epochs", "warmup_only")
    }
    arguments["total_steps"] = settings["steps_per_epoch"] * settings["total_epochs"]
    if arguments.get("cooldown_type") == "half_cosine":
        arguments["cooldown_type"] = "half_cosine_legacy"
    return trace, arguments


@pytest.mark.parametrize("name", ALL_RUNS)
def test_parity_of_a_run(name):
    trace, arguments = load_run(name)
    rates, states = run(trace["losses"], arguments)
    np.testing.assert_allclose(rates, trace["lr"][:-1], rtol=EXACT, atol=1e-15)
    np.testing.assert_array_equal(states.phase, trace["phase"][1:])
    tests = trace["test_step"] - 1
    np.testing.assert_array_equal(states.test_step[tests], trace["test_step"])
    assert states.test_step[-1] == max(trace["test_step"], default=0)
    # At two points and fewer the mean's gradient is rounding: see gp_few_points.
    tolerance = 2e-4 if "few" in name or "one_step" in name else EXACT
    probability, noise = states.probability[tests], states.gp.parameters.noise[tests]
    np.testing.assert_allclose(probability, trace["test_prob"], atol=tolerance)
    np.testing.assert_allclose(noise, trace["test_noise"], atol=tolerance)


def test_parity_up_to_the_switch_of_a_run_that_the_original_never_ends():
    """Its ``warmup_only`` has no counterpart here: from the switch on, runs differ."""
    trace, arguments = load_run("run_warmup_only_u")
    rates, states = run(trace["losses"], arguments)
    switch = states.switch_step[-1]
    assert switch == 40
    np.testing.assert_allclose(rates[:switch], trace["lr"][:switch], rtol=EXACT)
    tests = trace["test_step"][trace["test_step"] <= switch] - 1
    expected = trace["test_prob"][: len(tests)]
    np.testing.assert_allclose(states.probability[tests], expected, atol=EXACT)


@pytest.mark.parametrize("name", ["run_decayfactor_u", "run_decayfactor_decreasing"])
def test_the_decay_factor_acts_at_the_end_of_every_epoch(name):
    """The original's acts once, at a switch that a test makes, and never again."""
    trace, arguments = load_run(name)
    rates, states = run(trace["losses"], arguments)
    switch = int(states.switch_step[-1])
    expected = trace["lr"][: switch + 1]
    np.testing.assert_allclose(rates[: switch + 1], expected, rtol=EXACT)
    inside = rates[switch : switch + int((states.phase == 1).sum())]
    ratios = inside[1:] / inside[:-1]
    falls = np.flatnonzero(~np.isclose(ratios, 1))
    np.testing.assert_allclose(ratios[falls], arguments["decay_factor"], rtol=EXACT)
    assert len(falls) >= 7
    np.testing.assert_array_equal(np.diff(falls), 5)  # every epoch of five steps


RECORDED = ["run_decayfactor_u", "run_decayfactor_decreasing", *FAST, *SLOW]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_the_recurrence_is_the_original(name):
    """What the next test compares with, itself compared."""
    trace, arguments = load_run(name)
    rates, phases, _ = recurrence.run(trace["losses"], **arguments, decays_once=True)
    np.testing.assert_allclose(rates, trace["lr"][:-1], rtol=1e-6, atol=1e-15)
    np.testing.assert_array_equal(phases, trace["phase"][1:])


def draw_series(generator, num_steps):
    """Losses that fall, and most of the time rise again; some are not finite."""
    end = generator.uniform(0.5, 3)  # beyond pi / 2 per pi of the sine they rise
    share = np.minimum(np.arange(num_steps) / num_steps * end, 1)
    losses = 2.3 - 1.5 * np.sin(np.pi * share) + generator.normal(0, 0.05, num_steps)
    losses = losses * generator.choice([1, 100]) + generator.choice([0, -10])
    losses[generator.integers(1, num_steps, 4)] = [np.nan, np.inf, -np.inf, np.nan]
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_settings_follow_the_recurrence(seed):
    generator = np.random.default_rng(seed)
    steps_per_epoch = int(generator.integers(2, 8))
    words: dict[str, Any] = {
        "total_steps": steps_per_epoch * int(generator.integers(14, 20)),
        "steps_per_epoch": steps_per_epoch,
        "test_every": int(generator.integers(2, steps_per_epoch + 1)),
        "max_warmup_fraction": generator.choice([0.3, 0.5, 0.7]).item(),
        "patience": int(generator.integers(1, 4)),
        "warmup_unit": str(generator.choice(["step", "epoch"])),
        "warmup_type": str(generator.choice(["exponential", "linear"])),
        "immediate_cooldown": bool(generator.integers(2)),
        "decay_stat": [None, "loss"][seed % 2],
        "cooldown_type": str(
            generator.choice(["cosine", "half_cosine", "half_cosine_legacy"])
        ),
    }
    for _ in range(4):
        arguments: dict[str, Any] = {
            **words,
            "min_learning_rate": 10 ** generator.uniform(-6, -3),
            "max_learning_rate": 10 ** generator.uniform(-1, 1),
            "decay_factor": generator.choice([0.5, 0.9, 1.0]).item(),
            "cooldown_fraction": generator.choice([0.0, 0.2, 0.33, 0.6]).item(),
        }
        losses = draw_series(generator, words["total_steps"])
        expected, phases, switch = recurrence.run(losses, **arguments)
        rates, states = run(losses, arguments)
        np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-15)
        np.testing.assert_array_equal(states.phase, phases)
        assert states.switch_step[-1] == switch
