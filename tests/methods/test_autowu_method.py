"""AutoWU in the trainer: what is built, what is drawn, and resuming at the switch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import hpfree_jax as hp
from hpfree_jax.methods._registry import build_optimizer
from hpfree_jax.training import METHODS, train
from hpfree_jax.training import resume as resume_run

build = functools.partial(build_optimizer, "autowu", total_steps=40, steps_per_epoch=4)
# Falls for half of the 20 steps that warm up, then rises.
LOSSES = 2.3 - np.sin(np.arange(40) / 6) + 0.01 * np.sin(np.arange(40.0) ** 2)


@functools.cache
def rates_and_state(**settings):
    tx = build(settings)
    params = {"kernel": jnp.ones(3)}

    @jax.jit
    def run(losses):
        def step(state, loss):
            _, state = tx.update({"kernel": jnp.ones(3)}, state, params, value=loss)
            return state, hp.get_learning_rate(state)

        return jax.lax.scan(step, tx.init(params), losses)

    state, rates = run(jnp.asarray(LOSSES, jnp.float32))
    return rates, state


def test_the_warm_up_ends_and_the_rate_falls_back():
    rates, state = rates_and_state()
    rule = state[-1]
    assert rule.test_step == rule.switch_step > 0
    peak = int(np.argmax(rates))
    assert peak + 1 == rule.switch_step
    np.testing.assert_allclose(rates[peak + 1], rule.best_learning_rate, rtol=1e-6)
    assert rates[-1] < 0.1 * rule.best_learning_rate


@pytest.mark.parametrize(
    ("total_steps", "steps_per_epoch", "expected"),
    [(10, 5, 1), (1000, 500, 10), (1000, 4, 4), (12_000, 100, 100)],
)
def test_tests_are_a_hundredth_of_the_training_apart(
    monkeypatch, total_steps, steps_per_epoch, expected
):
    options = {}

    def autowu(inner, *length, **chosen):
        options.update(chosen)
        return optax.sgd(0.1)

    monkeypatch.setattr(hp, "autowu", autowu)
    length = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    build(**length)
    assert options["test_every"] == expected
    build({"test_every": 7}, **length)
    assert options["test_every"] == 7


@pytest.mark.parametrize(
    ("inner", "settings", "expected"),
    [
        ("sgd", {"momentum": 0.5}, lambda rate: optax.sgd(rate, momentum=0.5)),
        ("adam", {}, optax.adam),
        ("adamw", {"weight_decay": 0.1}, lambda r: optax.adamw(r, weight_decay=0.1)),
        ("nadamw", {}, lambda rate: optax.nadamw(rate, weight_decay=1e-4)),
    ],
)
def test_the_first_step_is_that_of_the_inner_optimizer(inner, settings, expected):
    settings = {"inner": inner, "min_learning_rate": 0.01, **settings}
    params, grads = jnp.array([1.0, -2.0]), jnp.array([0.5, 0.25])
    tx = build(settings)
    ours, _ = tx.update(grads, tx.init(params), params, value=1.0)
    tx = expected(0.01)
    theirs, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_panel_shows_losses_process_and_rate():
    _, state = rates_and_state()
    panels = METHODS["autowu"].panels
    (title, draw), *others = panels([], state).items()
    assert (title, others) == ("The test that ended warm-up", [])
    axes = Figure().subplots()
    draw(axes)
    losses, mean, lowest = axes.get_lines()
    rule = state[-1]
    np.testing.assert_allclose(losses.get_ydata(), LOSSES[: rule.test_step], rtol=1e-6)
    np.testing.assert_array_equal(mean.get_ydata(), rule.predicted_mean)
    # The sine is largest at 6 pi / 2 = 9.4 steps.
    np.testing.assert_allclose(lowest.get_xdata(), 9.4, atol=1.0)
    assert f"{rule.best_learning_rate:.2g}" in lowest.get_label()


def test_without_a_test_there_is_no_panel():
    panels = METHODS["autowu"].panels
    tx = build()
    assert panels([], tx.init(jnp.zeros(2))) == {}
    assert panels([], None) == {}  # the run diverged


@pytest.mark.slow
def test_a_run_resumed_at_every_epoch_is_the_run_that_was_not(config, monkeypatch):
    """Ten steps, a test at each of the first four: the last epoch cools down."""
    settings = {"method": "autowu", "loss": "cross_entropy", "max_learning_rate": 10.0}
    whole = train(config("whole", **settings))
    phases = jax.device_get(whole.state.opt_state[-1].phase)
    assert phases == 2
    parts = train(config("parts", **settings, evaluate_every=2))
    (parts.directory / "checkpoints" / "10").rename(parts.directory / "last")
    resumed = resume_run(parts.directory)
    same = jax.tree.map(np.array_equal, resumed.state, whole.state)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": "lion"}, "unknown inner 'lion'"),
        ({"learning_rate": 0.1}, "`learning_rate` 0.1 does not apply"),
        ({"min_learning_rate": 2.0}, "method autowu: .*`min_learning_rate`"),
        ({"max_warmup_fraction": 2.0}, "method autowu: .*`max_warmup_fraction`"),
        ({"test_every": 0}, "method autowu: .*`test_every`"),
    ],
)
def test_what_cannot_be_built_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build(settings)
