"""How the scalars move: numbers by hand, from NumPy recurrences, from invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp

BOWL = np.array([1.0, 3.0])  # curvatures of loss(w) = sum(BOWL / 2 * w^2)


def bowl(w):
    return jnp.sum(jnp.asarray(BOWL) / 2 * w**2)


def follow(tx, num_steps=5, start=(1.0, -2.0), scale=1.0, **extra_args):
    """Returns the states after each step on the bowl times a scale, and the last w."""
    value_fn = lambda w: scale * bowl(w)
    w = jnp.asarray(start, jnp.float32)
    update = jax.jit(
        lambda w, s: tx.update(
            jax.grad(value_fn)(w), s, w, value_fn=value_fn, **extra_args
        )
    )
    state, states = tx.init(w), []
    for _ in range(num_steps):
        updates, state = update(w, state)
        w = optax.apply_updates(w, updates)
        states.append(state)
    return states, w


def rates(states):
    return np.array([s.hyperparams["learning_rate"] for s in states])


def hypergradients(states):
    return np.array([s.hypergradients["learning_rate"] for s in states])


def test_hd_is_baydins_rule():
    """The rate grows by beta <g_t, g_{t-1}>, before the step."""
    states, _ = follow(hp.hd(optax.sgd, 0.1, 0.01))
    w, rate, previous, expected = np.array([1.0, -2.0]), 0.1, np.zeros(2), []
    for _ in range(5):
        g = BOWL * w
        rate += 0.01 * g @ previous
        w, previous = w - rate * g, g
        expected.append(rate)
    np.testing.assert_allclose(rates(states), expected, rtol=1e-5)


def test_hd_with_nesterov_is_baydins_rule():
    """The derivative of the update is -(g + m v), v with the present gradient."""
    nesterov = functools.partial(optax.sgd, momentum=0.9, nesterov=True)
    states, _ = follow(hp.hd(nesterov, 0.02, 0.001))
    w, v, rate, previous, expected = np.array([1.0, -2.0]), 0, 0.02, np.zeros(2), []
    for _ in range(5):
        g = BOWL * w
        rate += 0.001 * g @ previous
        v = 0.9 * v + g
        previous = g + 0.9 * v
        w = w - rate * previous
        expected.append(rate)
    np.testing.assert_allclose(rates(states), expected, rtol=1e-5)


def numpy_marthe(num_steps, mu, beta, alpha=0.0, rate=0.1):
    """The equations of the paper for gradient descent; mu None adapts it.

    The validation loss grows from step to step, so that mu is neither 0 nor 1.
    """
    w, z, adaptive = np.array([1.0, -2.0]), np.zeros(2), mu is None
    b, c, mu = np.zeros(2), 0.0, 0.0 if adaptive else mu
    d, d_old, rows = 0.0, 0.0, []
    for t in range(num_steps):
        g, e = BOWL * w, 3.0**t * BOWL * w
        if adaptive:
            q = 0.0 if b @ e == 0 else d / (b @ e)
            c = (c + 1) * mu
            mu = np.clip(q, 0, 1) ** (1 / (c + 1))
        beta = max(0, beta + alpha * d * d_old)
        d, d_old = e @ z, d
        rate = max(0, rate - beta * d)
        b = -g
        z = mu * (z - rate * BOWL * z) + b
        w = w - rate * g
        rows.append((rate, d, mu, beta))
    return np.array(rows).T


@pytest.mark.parametrize(
    ("discount", "alpha"), [(1.0, 0.0), (0.5, 1e-10), (None, 0.0), (None, 1e-10)]
)
def test_marthe_is_the_papers_recursion(discount, alpha):
    tx = hp.marthe(optax.sgd, 0.1, 2e-5, discount=discount, adaptation_rate=alpha)
    update = jax.jit(
        lambda w, s, growth: tx.update(
            jax.grad(bowl)(w),
            s,
            w,
            value_fn=bowl,
            validation_fn=lambda w: growth * bowl(w),
        )
    )
    w, states = jnp.array([1.0, -2.0]), []
    state = tx.init(w)
    for t in range(7):
        updates, state = update(w, state, 3.0**t)
        w = optax.apply_updates(w, updates)
        states.append(state)
    expected = numpy_marthe(7, discount, 2e-5, alpha)
    found = [
        rates(states),
        hypergradients(states),
        [s.discount for s in states],
        [s.hyper_learning_rate for s in states],
    ]
    for name, one, other in zip(
        ("rate", "D", "mu", "beta"), found, expected, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=5e-5, err_msg=name)
    if discount is None:  # it must have moved for this to test anything
        assert np.sum((expected[2] > 0) & (expected[2] < 1)) > 1


def test_the_hyper_learning_rate_may_be_an_optimizer():
    plain, _ = follow(hp.rtho(optax.sgd, 0.1, 0.002))
    tx = hp.rtho(optax.sgd, 0.1, optax.sgd(0.002))
    states, _ = follow(tx)
    np.testing.assert_allclose(rates(states), rates(plain), rtol=1e-6)
    assert states[-1].hyper_learning_rate is None
    momentum, _ = follow(hp.rtho(optax.sgd, 0.1, optax.sgd(0.002, momentum=0.5)))
    d, move = hypergradients(momentum), 0.0
    for t in range(5):
        move = 0.5 * move - 0.002 * d[t]
        np.testing.assert_allclose(
            rates(momentum)[t], (0.1, *rates(momentum))[t] + move, rtol=1e-5
        )


@pytest.mark.parametrize("discount", [0, 0.5, 1, None])
def test_the_multiplicative_rule_ignores_the_scale_of_the_loss(discount):
    def run(scale):
        tx = hp.hypergradient(
            optax.sgd,
            {"learning_rate": 0.1 / scale},
            0.05,
            discount=discount,
            rule="multiplicative",
        )
        states, w = follow(tx, scale=scale)
        return rates(states) * scale, np.array(w)

    once, thousand = run(1.0), run(1000.0)
    np.testing.assert_allclose(thousand[0], once[0], rtol=1e-5)
    np.testing.assert_allclose(thousand[1], once[1], rtol=1e-5)
    assert np.all(np.diff(once[0]) > 0)


def test_the_multiplicative_rule_moves_by_a_cosine():
    states, _ = follow(hp.hd(optax.sgd, 0.1, 0.05, rule="multiplicative"), 2)
    g0 = BOWL * np.array([1.0, -2.0])
    g1 = BOWL * (np.array([1.0, -2.0]) - 0.1 * g0)
    cosine = g0 @ g1 / np.linalg.norm(g0) / np.linalg.norm(g1)
    np.testing.assert_allclose(
        rates(states), [0.1, 0.1 * (1 + 0.05 * cosine)], rtol=1e-6
    )
    np.testing.assert_allclose(states[1].signals["learning_rate"], -cosine, rtol=1e-6)


def test_the_learning_rate_does_not_become_negative():
    """Started far too high: the additive rule would overshoot zero."""
    states, w = follow(hp.rtho(optax.sgd, 0.7, 10.0), 8)
    assert rates(states).min() == 0
    assert np.all(np.isfinite(w))
    free = hp.rtho(optax.sgd, 0.7, 10.0, bounds={"learning_rate": (-np.inf, np.inf)})
    assert rates(follow(free, 8)[0]).min() < 0


def test_bounds_hold_for_every_scalar():
    tx = hp.hypergradient(
        optax.sgd,
        {"learning_rate": 0.1, "momentum": 0.5},
        0.1,
        bounds={"momentum": (0.4, 0.6), "learning_rate": (0.05, 0.2)},
    )
    states, _ = follow(tx, 8)
    momenta = np.array([s.hyperparams["momentum"] for s in states])
    assert momenta.min() >= np.float32(0.4)
    assert momenta.max() <= np.float32(0.6)
    assert len(np.unique(momenta)) > 1
    assert rates(states).max() == np.float32(0.2)


def test_a_cap_limits_the_move_and_not_the_record():
    states, _ = follow(hp.rtho(optax.sgd, 0.1, 0.01, clip_hypergradient=0.5), 3)
    np.testing.assert_allclose(np.diff(rates(states)), [0.005, 0.005], rtol=1e-4)
    assert np.all(np.abs(hypergradients(states)[1:]) > 0.5)


def test_adaptation_stops_after_some_steps():
    states, _ = follow(hp.rtho(optax.sgd, 0.1, 0.01, adaptation_steps=3), 6)
    found = rates(states)
    assert found[1] != found[2]
    np.testing.assert_array_equal(found[2:], found[2])


def test_a_frozen_run_continues_with_the_plain_optimizer():
    """The recipe of the docstring: inner(**hyperparams) from the inner state."""
    adam = functools.partial(optax.adam, b1=0.8)
    tx = hp.rtho(adam, 0.1, 0.01, adaptation_steps=2)
    (_, _, third, fourth), w = follow(tx, 4)
    del fourth
    _, before = follow(tx, 3)
    plain = adam(**third.hyperparams)
    updates, _ = plain.update(jax.grad(bowl)(before), third.inner_state, before)
    np.testing.assert_allclose(optax.apply_updates(before, updates), w, rtol=1e-6)


OPTIMIZERS = {
    "sgd": (optax.sgd, 1e-3, 0.6),
    "momentum": (functools.partial(optax.sgd, momentum=0.5), 1e-3, 0.9),
    "nesterov": (functools.partial(optax.sgd, momentum=0.5, nesterov=True), 1e-3, 0.6),
    "adam": (optax.adam, 1e-3, 5.0),
    "adamw": (optax.adamw, 1e-3, 5.0),
    "nadamw": (optax.nadamw, 1e-3, 5.0),
    "rmsprop": (optax.rmsprop, 1e-3, 5.0),
    "lion": (optax.lion, 1e-3, 5.0),
    "adafactor": (
        functools.partial(optax.adafactor, min_dim_size_to_factor=2),
        1e-3,
        5.0,
    ),
    "lamb": (optax.lamb, 1e-3, 5.0),
}


@pytest.mark.parametrize("discount", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_moves_towards_the_right_one(name, discount):
    """Started too low it rises, started too high it falls."""
    inner, low, high = OPTIMIZERS[name]
    for start, sign in ((low, 1), (high, -1)):
        tx = hp.hypergradient(
            inner,
            {"learning_rate": start},
            0.01,
            discount=discount,
            rule="multiplicative",
        )
        states, _ = follow(tx, 4)
        assert sign * (rates(states)[-1] - start) > 0


@pytest.mark.parametrize("discount", [0, 1, None])
def test_a_bad_validation_loss_stops_the_scalars_and_not_the_training(discount):
    tx = hp.hypergradient(optax.sgd, {"learning_rate": 0.1}, 0.01, discount=discount)
    plain = optax.sgd(0.1)
    bad = lambda w: jnp.sum(w) * jnp.nan
    states, w = follow(tx, 3, validation_fn=bad)
    np.testing.assert_array_equal(rates(states), np.float32(0.1))
    assert states[-1].num_non_finite == 3
    assert states[-1].count == 3
    expected, state = jnp.array([1.0, -2.0]), plain.init(jnp.ones(2))
    for _ in range(3):
        updates, state = plain.update(jax.grad(bowl)(expected), state)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(w, expected, rtol=1e-6)
    # The tangent restarted: only the last step is left in it, dw / d rate = -g.
    last_step = np.array(jax.grad(bowl)(jnp.array([1.0, -2.0]) * (1 - 0.1 * BOWL) ** 2))
    tangent = states[-1].tangents["learning_rate"].params
    np.testing.assert_allclose(tangent, -last_step, rtol=1e-5)


def test_a_bad_gradient_changes_nothing_but_the_tangents():
    tx = hp.rtho(optax.adam, 0.1, 0.01)
    (*_, state), w = follow(tx, 3)
    updates, after = tx.update(jnp.array([jnp.nan, 1.0]), state, w, value_fn=bowl)
    np.testing.assert_array_equal(updates, 0)
    assert after.num_non_finite == 1
    for name in ("count", "hyperparams", "inner_state", "hyper_learning_rate"):
        one, other = getattr(after, name), getattr(state, name)
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(np.all(z == 0) for z in jax.tree.leaves(after.tangents))


def test_a_partition_gives_each_group_its_own_rate():
    """A group sees its own leaves: the loss must put the others back."""
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    total = lambda p: bowl(p["a"]) + 0.1 * jnp.sum(p["b"] ** 2)

    def value_fn(group):
        whole = jax.tree.map(
            lambda g, p: p if isinstance(g, optax.MaskedNode) else g,
            group,
            params,
            is_leaf=lambda g: isinstance(g, optax.MaskedNode),
        )
        return total(whole)

    tx = optax.partition(
        {"a": hp.rtho(optax.sgd, 0.1, 0.01), "b": hp.rtho(optax.adam, 0.1, 0.01)},
        {"a": "a", "b": "b"},
    )
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(
            jax.grad(total)(params), state, params, value_fn=value_fn
        )
        params = optax.apply_updates(params, updates)
    states, _ = follow(hp.rtho(optax.sgd, 0.1, 0.01), 3)
    found = state.inner_states["a"].inner_state.hyperparams["learning_rate"]
    np.testing.assert_allclose(found, rates(states)[-1], rtol=1e-6)


@pytest.mark.parametrize("alias", [hp.hd, hp.rtho, hp.marthe])
def test_an_alias_is_a_setting(alias):
    discount = {hp.hd: 0, hp.rtho: 1, hp.marthe: None}[alias]
    adaptation_rate = 1e-6 if alias is hp.marthe else 0.0
    general = hp.hypergradient(
        optax.sgd,
        {"learning_rate": 0.1},
        0.01,
        discount=discount,
        adaptation_rate=adaptation_rate,
    )
    one, other = follow(alias(optax.sgd, 0.1, 0.01)), follow(general)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("alias", [hp.hd, hp.marthe])
def test_without_a_hyper_learning_rate_the_rule_is_scale_free(alias):
    one = follow(alias(optax.sgd, 0.1))
    other = follow(alias(optax.sgd, 0.1, 0.05, rule="multiplicative"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_numbers_may_be_of_python_numpy_or_jax():
    states = [
        hp.rtho(optax.sgd, kind(0.5), kind(0.25)).init(jnp.ones(2))
        for kind in (float, np.float32, np.float64, np.asarray, jnp.asarray)
    ]
    types = [jax.tree.map(jax.typeof, state) for state in states]
    assert all(other == types[0] for other in types)
    assert all(state.hyperparams["learning_rate"] == 0.5 for state in states)


def test_marthe_adapts_no_rate_where_a_transformation_rules():
    """Its default adaptation of a number is off; one that was asked for is an error."""
    tx = hp.marthe(optax.sgd, 0.1, optax.sgd(0.01), rule="multiplicative")
    loss = lambda w: jnp.square(w - 3.0)
    w = jnp.array(1.0)
    state = tx.init(w)
    for _ in range(2):
        updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
        w = optax.apply_updates(w, updates)
    # One scalar: the cosine is -1, which the transformation turns into +1 %.
    assert state.hyperparams["learning_rate"] == pytest.approx(0.101)
    with pytest.raises(ValueError, match=r"leave it at 0, got 0\.1"):
        hp.marthe(optax.sgd, 0.1, optax.sgd(0.01), adaptation_rate=0.1)
