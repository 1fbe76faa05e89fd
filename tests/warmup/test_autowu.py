"""The schedule: deviations from the original, odd losses, resuming, directions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import hpfree_jax as hp
from hpfree_jax.warmup import posterior
from hpfree_jax.warmup._vote import draw

TOTAL, EPOCH = 80, 4
OPTIONS = {"min_learning_rate": 1e-3, "max_learning_rate": 1.0, "fit_steps": 20}


def u_shape(num_steps=TOTAL, minimum=12.0):
    """Losses that fall until a step and then rise, without noise."""
    return 1 + 0.01 * (np.arange(num_steps) - minimum) ** 2


@functools.cache
def make(**options):
    """One transformation and one compiled run for each set of options."""
    tx = hp.scale_by_autowu(TOTAL, EPOCH, **{**OPTIONS, **options})

    def step(state, loss):
        updates, state = tx.update(jnp.ones(()), state, jnp.ones(()), value=loss)
        return state, (-updates, state)

    return tx, jax.jit(lambda state, losses: jax.lax.scan(step, state, losses))


def run(losses, **options):
    """Returns the rate applied at each step, and the states after them."""
    tx, scan = make(**options)
    _, (rates, states) = scan(tx.init(jnp.ones(())), jnp.asarray(losses, float))
    return np.asarray(rates), jax.tree.map(np.asarray, states)


def is_finite(tree):
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


def test_the_phases_of_a_run():
    rates, states = run(u_shape())
    switch = states.switch_step[-1]
    assert 12 < switch < 40
    assert switch % EPOCH == 0
    np.testing.assert_array_equal(states.votes[switch - 1], [1, 1, 1])
    curve = 1e-3 * 1000 ** (np.arange(switch) / 40)  # min * (max / min)^(t / N)
    np.testing.assert_allclose(rates[:switch], curve, rtol=1e-5)
    # The minimum of the losses is at step 12: back to the rate of about there.
    best = states.best_learning_rate[-1]
    assert curve[10] < best < curve[14]
    np.testing.assert_allclose(rates[switch:64], best, rtol=1e-6)
    share = (np.arange(65, 81) - 64) / 16  # K = 16 steps of cosine, k = 1 at call 64
    np.testing.assert_allclose(
        rates[64:], best * (1 + np.cos(np.pi * share)) / 2, rtol=1e-4, atol=1e-8
    )
    np.testing.assert_array_equal(np.unique(states.phase), [0, 1, 2])
    # What is reported is what was applied.
    np.testing.assert_allclose(states.learning_rate, rates, rtol=1e-6)


def test_the_posterior_at_the_switch_follows_the_losses():
    _, states = run(u_shape())
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    step, mean, std = posterior(last)
    assert step[-1] == last.switch_step == last.test_step
    inside = slice(0, -20)  # losses reach up to index n - 1, the grid to n
    expected = np.interp(step, np.arange(TOTAL), u_shape())
    error = np.abs(np.asarray(mean) - expected)[inside]
    assert error.max() < 0.2
    assert np.all(std > 0)


def test_half_cosine_starts_at_the_rate_in_force():
    options = {"cooldown_fraction": 0.5, "max_warmup_fraction": 0.0}
    rates, _ = run(u_shape(), cooldown_type="half_cosine", **options)
    legacy, _ = run(u_shape(), cooldown_type="half_cosine_legacy", **options)
    np.testing.assert_allclose(rates[:40], 1.0)
    assert 0.95 < rates[40] < 1
    assert 0.45 < legacy[40] < 0.5
    np.testing.assert_allclose(rates[40:], 2 * legacy[40:], rtol=1e-5)
    assert np.all(np.diff(rates) <= 0)


@pytest.mark.parametrize("cooldown_type", ["cosine", "half_cosine"])
def test_past_the_horizon_the_rate_stays(cooldown_type):
    rates, states = run(
        u_shape(TOTAL + 30), max_warmup_fraction=0.0, cooldown_type=cooldown_type
    )
    np.testing.assert_array_equal(rates[TOTAL:], rates[TOTAL - 1])
    assert states.count[-1] == TOTAL + 30


def test_plateau_after_a_switch():
    """The original fails there. Constant losses after it: one cut each six epochs."""
    losses = u_shape()
    _, states = run(losses, decay_stat="loss", decay_factor=0.5, cooldown_fraction=0.0)
    switch = states.switch_step[-1]
    losses[switch:] = 1.0
    rates, states = run(
        losses, decay_stat="loss", decay_factor=0.5, cooldown_fraction=0.0
    )
    cuts = np.flatnonzero(np.diff(rates[switch:]) < 0) + 1
    # The first epoch is the best; the sixth that is not better than it cuts.
    np.testing.assert_array_equal(cuts[:1], [7 * EPOCH])
    np.testing.assert_allclose(rates[switch + cuts] / rates[switch + cuts - 1], 0.5)


def test_a_plateau_of_negative_losses_is_one():
    losses = u_shape()
    losses[20:] = 1.0
    rates, _ = run(losses, decay_stat="loss", decay_factor=0.5, max_warmup_fraction=0.0)
    lower, _ = run(
        losses - 100, decay_stat="loss", decay_factor=0.5, max_warmup_fraction=0.0
    )
    assert rates[60] < rates[0]
    assert lower[60] < lower[0]


def test_a_factor_of_one_and_bad_epochs_do_nothing():
    losses = u_shape()
    losses[44:60] = np.nan
    rates, states = run(losses, decay_stat="loss", max_warmup_fraction=0.0)
    np.testing.assert_array_equal(rates[:64], rates[0])
    assert is_finite(states)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_are_left_out(bad):
    losses = u_shape()
    losses[[0, 5, 6, 7, 17]] = bad
    rates, states = run(losses)
    _, clean = run(u_shape())
    assert is_finite(states)
    assert states.num_non_finite[-1] == 5
    assert abs(states.switch_step[-1] - clean.switch_step[-1]) <= EPOCH
    assert np.all(rates[:12] <= rates[12])


def test_without_any_finite_loss_the_rate_goes_down():
    rates, states = run(np.full(TOTAL, np.nan))
    assert is_finite(states)
    assert states.num_non_finite[-1] == TOTAL
    assert states.num_failed_tests[-1] == 1
    np.testing.assert_allclose(rates[EPOCH:60], 1e-3, rtol=1e-6)
    assert rates[-1] < 1e-3


SERIES = {
    "constant": np.ones(TOTAL),
    "linear": np.linspace(2, 1, TOTAL),
    "huge": 1e30 * u_shape(),
    "largest": np.full(TOTAL, 3e38) * (-1.0) ** np.arange(TOTAL),
    "tiny": 1e-30 * u_shape(),
    "heavy-tailed": np.random.default_rng(0).standard_cauchy(TOTAL) ** 3,
    "offset": 1e6 + u_shape(),
}


@pytest.mark.parametrize("name", SERIES)
def test_odd_losses_do_no_harm(name):
    rates, states = run(SERIES[name])
    assert is_finite((rates, states))
    assert np.all(rates >= 0)
    assert np.all(rates <= 1 + 1e-6)
    if name in ("constant", "linear", "tiny"):
        assert states.num_failed_tests[-1] == 0
        np.testing.assert_array_equal(states.phase[:39], 0)  # nothing to detect
    if name == "largest":
        # A failed test leaves the process as it was, and warm-up goes on.
        assert states.num_failed_tests[-1] > 0
        raw_noise = states.gp.parameters.raw_noise
        np.testing.assert_array_equal(raw_noise, raw_noise[0])
        assert states.switch_step[-1] == 40


def test_a_bad_loss_between_tests_changes_no_parameter():
    """A test that fails after good ones: parameters and Adam's state stay."""
    losses = u_shape()
    losses[10] = 3e38
    _, states = run(losses)
    before, after = (
        jax.tree.leaves(jax.tree.map(lambda leaf, i=i: leaf[i], states.gp))
        for i in (7, 11)
    )
    assert states.num_failed_tests[11] == 1
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def draw_some(num_losses, num, key=0, num_bad=0):
    losses = jnp.arange(30.0)
    is_finite = (losses >= num_bad) & (losses < num_losses)
    random = jax.random.uniform(jax.random.key(key), (30,))
    return draw(losses, is_finite, jnp.asarray(num_losses), num, random)


def test_a_draw_takes_one_loss_of_each_part_and_none_twice():
    points = draw_some(23, 7)
    index = np.asarray(points.y)
    assert np.all(points.is_present)
    np.testing.assert_allclose(points.x, index / 23, rtol=1e-6)
    edges = np.arange(8) * 23 / 7
    others = np.stack([draw_some(23, 7, key=key).y for key in range(20)])
    assert np.all(others >= np.floor(edges[:-1]))
    assert np.all(others < edges[1:] - 1 + 1e-3)  # so that two parts share none
    assert np.all(np.ptp(others, axis=0) > 0)
    traced = draw_some(23, jnp.asarray(7))
    np.testing.assert_array_equal(traced.y[:7], index)
    assert not np.any(traced.is_present[7:])


def test_a_draw_takes_all_if_there_are_no_more():
    for num in (12, 20, 500):
        points = draw_some(12, num, num_bad=2)
        np.testing.assert_array_equal(points.y[points.is_present], np.arange(2, 12))


@pytest.mark.slow
def test_more_losses_than_points_are_drawn_by_the_seed():
    _, states = run(u_shape(), fit_points=6)
    _, same = run(u_shape(), fit_points=6)
    _, other = run(u_shape(), fit_points=6, seed=1)
    noise = lambda states: states.gp.parameters.noise[:20]
    np.testing.assert_array_equal(noise(states), noise(same))
    assert np.any(noise(states) != noise(other))
    assert 12 < states.switch_step[-1] < 40


def test_resuming_around_the_switch_is_exact(tmp_path):
    tx, _ = make()
    losses, one = jnp.asarray(u_shape(), float), jnp.ones(())

    @jax.jit
    def advance(state, start, stop):
        step = lambda i, state: tx.update(one, state, one, value=losses[i])[1]
        return jax.lax.fori_loop(start, stop, step, state)

    expected = advance(tx.init(one), 0, TOTAL)
    switch = int(expected.switch_step)
    assert 12 < switch < 40
    for stop in (switch - 1, switch, switch + 1):
        state = advance(tx.init(one), 0, stop)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / str(stop), state)
            checkpointer.wait_until_finished()
            abstract = jax.eval_shape(tx.init, one)
            state = checkpointer.restore(tmp_path / str(stop), abstract)
        end = advance(state, stop, TOTAL)
        for found, wanted in zip(
            jax.tree.leaves(end), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


DIRECTIONS = {
    "adam": (optax.scale_by_adam(), 1e-4, 1.0),
    "lion": (optax.scale_by_lion(), 1e-3, 0.1),
    "momentum": (optax.trace(0.9), 1e-4, 1.0),
    "agd": (hp.scale_by_agd(), 1e-2, 10.0),
    "lamb": (
        optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
        1e-4,
        1.0,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIRECTIONS)
def test_any_direction(name):
    inner, low, high = DIRECTIONS[name]
    tx = hp.autowu(
        inner, 60, 3, min_learning_rate=low, max_learning_rate=high, fit_steps=5
    )
    target = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    params = {"kernel": jnp.ones((2, 2))}
    loss = lambda params: jnp.mean((params["kernel"] - target) ** 2)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=60)

    (params_end, state), _ = train(params)
    assert loss(params_end) < 0.2 * loss(params)
    assert hp.get_learning_rate(state) == state[-1].learning_rate


def test_the_sign_is_an_option():
    tx = hp.scale_by_autowu(TOTAL, EPOCH, flip_sign=False, max_warmup_fraction=0.0)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=1.0)
    np.testing.assert_array_equal(updates, [1, 1])


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    tx = hp.scale_by_autowu(TOTAL, EPOCH, max_warmup_fraction=0.0)
    state = tx.init(jnp.ones(2))
    updates, state = tx.update(jnp.array([1.0, np.nan]), state, value=1.0)
    np.testing.assert_array_equal(updates, [0, 0])
    assert (state.num_skipped, state.count) == (1, 1)
