"""Traces of the original (float64): the Gaussian process, and every recorded run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hpfree_jax as hp
from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._gaussian_process import Points
from tests.reference import load_case

EXACT = 1e-9
CAPACITY = 80  # of the padded data, the same for all cases


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def fit_and_predict(state, points, lengthscale):
    """One round as the original makes it: its mean is reset, then 100 steps."""
    mean = jnp.sum(points.y) / jnp.sum(points.is_present)  # absent ones are 0 here
    state = state._replace(parameters=state.parameters._replace(mean=mean))
    rotated = gaussian_process.rotate(points, lengthscale)
    before = gaussian_process.negative_log_likelihood(
        state.parameters, rotated, lengthscale
    )
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
        "gp_lengthscale_1",
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
        # A lengthscale as an array: one compilation, with the features of the smallest.
        before, state, is_usable, prediction, probability = fit_and_predict(
            state, points, jnp.asarray(settings["lengthscale"])
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
FAST = ["run_default_u"]
SLOW = [
    "run_plateau_decreasing",
    "run_few_points",
    "run_immediate_cosine_u",
    "run_immediate_halfcosine_u",
    "run_linear_halfcosine_u",
    "run_epoch_exp_u",
    "run_epoch_linear_immediate_u",
    "run_decreasing",
    "run_decreasing_immediate",
    "run_decreasing_linear_epoch",
    "run_nan_inf_u",
    "run_nan_inf_immediate_u",
    "run_zero_warmup",
    "run_zero_warmup_immediate",
    "run_lr_range_short_warmup",
    "run_long_warmup_meets_cooldown",
    "run_cooldown_fraction_0",
    "run_cooldown_fraction_1",
    "run_noisy_u",
    "run_noisy_linear_immediate_u",
    "run_one_step_epochs",
]


def run_case(name):
    """Returns (applied rates, states after each call, trace, arguments)."""
    settings, trace = load_case("autowu", name)
    arguments = {
        OPTIONS.get(key, key): value
        for key, value in settings.items()
        if key not in ("defaults", "summary", "steps_per_epoch", "total_epochs")
    }
    if arguments.get("cooldown_type") == "half_cosine":
        arguments["cooldown_type"] = "half_cosine_legacy"
    steps_per_epoch = settings["steps_per_epoch"]
    tx = hp.scale_by_autowu(
        steps_per_epoch * settings["total_epochs"], steps_per_epoch, **arguments
    )
    direction = jnp.ones(())

    def step(state, loss):
        updates, state = tx.update(direction, state, direction, value=loss)
        return state, (-updates, state)

    losses = jnp.asarray(trace["losses"])
    _, (rates, states) = jax.jit(
        lambda losses: jax.lax.scan(step, tx.init(direction), losses)
    )(losses)
    return rates, states, trace, arguments


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_parity_of_a_run(name):
    rates, states, trace, _ = run_case(name)
    np.testing.assert_allclose(rates, trace["lr"][:-1], rtol=EXACT, atol=1e-15)
    np.testing.assert_array_equal(states.phase, trace["phase"][1:])
    tests = trace["test_step"] - 1
    np.testing.assert_array_equal(np.unique(states.test_step)[1:], trace["test_step"])
    # At two points and fewer the mean's gradient is rounding: see gp_few_points.
    tolerance = 2e-4 if "few" in name or "one_step" in name else EXACT
    probability, noise = states.probability[tests], states.gp.parameters.noise[tests]
    np.testing.assert_allclose(probability, trace["test_prob"], atol=tolerance)
    np.testing.assert_allclose(noise, trace["test_noise"], atol=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "run_decayfactor_u",
        pytest.param("run_decayfactor_decreasing", marks=pytest.mark.slow),
    ],
)
def test_the_decay_factor_acts_at_the_end_of_every_epoch(name):
    """The original's acts once, at a switch that a test makes, and never again."""
    rates, states, trace, arguments = run_case(name)
    rates, expected = np.asarray(rates), trace["lr"]
    is_decay = np.asarray(states.phase) == 1
    switch = int(states.switch_step[-1])
    np.testing.assert_allclose(rates[: switch + 1], expected[: switch + 1], rtol=EXACT)
    inside = rates[switch : switch + int(is_decay.sum())]
    ratios = inside[1:] / inside[:-1]
    falls = np.flatnonzero(~np.isclose(ratios, 1))
    np.testing.assert_allclose(ratios[falls], arguments["decay_factor"], rtol=EXACT)
    assert len(falls) >= 7
    np.testing.assert_array_equal(np.diff(falls), 5)  # every epoch of five steps
