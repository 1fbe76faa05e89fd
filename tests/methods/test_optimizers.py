import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._registry import depends_on_total_steps
from hpfree_jax.training import METHODS, build_optimizer

PARAMS = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)}
GRADS = {"kernel": np.array([[0.3, 0.1], [-0.2, 0.4]], np.float32)}


def run(optimizer, num_steps=3):
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    rates = []
    for step in range(num_steps):
        grads = jax.tree.map(lambda g: g * (1 + step), GRADS)  # noqa: B023
        linear = lambda p: jnp.vdot(grads["kernel"], p["kernel"])  # noqa: B023
        updates, state = optimizer.update(
            grads,
            state,
            params,
            value=linear(params),
            value_fn=linear,
            unknown=None,
        )
        params = optax.apply_updates(params, updates)
        rates.append(float(hp.get_learning_rate(state)))
    return params["kernel"], rates


@pytest.mark.parametrize("name", METHODS)
def test_every_row_steps_downhill_and_shows_its_rate(name):
    arch = hp.trace_architecture(
        lambda params, x: x @ params["kernel"],
        PARAMS,
        jnp.ones((4, len(GRADS["kernel"]))),
    )
    model = {"params": PARAMS, "architecture": arch, "layout": arch.layout()}
    kernel, rates = run(build_optimizer(name, total_steps=30, model=model))
    assert np.all((kernel - PARAMS["kernel"]) * GRADS["kernel"] < 0)
    if name in ("cocob", "momo", "momo_adam"):  # they have no one rate
        assert np.isnan(rates).all()
    else:
        assert rates[-1] > 0


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("agd", {"gain": 2.0}, lambda: hp.agd(2.0)),
        ("agd", {"momentum": 0.5}, lambda: hp.agd(momentum=0.5)),
        ("sgd", {}, lambda: optax.sgd(0.01, momentum=0.9)),
        ("sgd", {"momentum": 0.0}, lambda: optax.sgd(0.01)),
        ("adam", {}, lambda: optax.adam(1e-3)),
        ("adamw", {"weight_decay": 0.1}, lambda: optax.adamw(1e-3, weight_decay=0.1)),
        ("nadamw", {}, lambda: optax.nadamw(1e-3)),
        ("hd", {}, lambda: hp.hd(functools.partial(optax.sgd, momentum=0.9), 0.01)),
        ("hd", {"inner": "adam"}, lambda: hp.hd(optax.adam, 1e-3)),
        (
            "hd",
            {"inner": "adam", "hyper_learning_rate": 1e-3, "learning_rate": 0.02},
            lambda: hp.hd(optax.adam, 0.02, 1e-3, rule="additive"),
        ),
        (
            "marthe",
            {"inner": "adamw", "weight_decay": 0.1, "discount": 0.0},
            lambda: hp.hd(functools.partial(optax.adamw, weight_decay=0.1), 1e-3),
        ),
    ],
)
def test_rows_are_the_factories_they_name(name, settings, expected):
    kernel, _ = run(build_optimizer(name, settings, total_steps=3))
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = expected()
    state = tx.init(params)
    for step in range(3):
        grads = jax.tree.map(lambda g: g * (1 + step), GRADS)  # noqa: B023
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(kernel, params["kernel"], rtol=1e-6)


def test_the_rate_in_the_state_follows_the_schedule():
    settings = {"learning_rate": 0.4, "schedule": "cosine"}
    _, rates = run(build_optimizer("adamw", settings, total_steps=4), 4)
    expected = 0.2 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("agdd", {}, "unknown method 'agdd' .did you mean 'agd'"),
        ("agd", {"learning_rate": 0.1}, "`learning_rate` 0.1 does not apply to .* agd"),
        ("agd", {"schedule": "cosine"}, "`schedule` cosine does not apply"),
        ("sgd", {"gain": 2.0}, "`gain` 2.0 does not apply to method sgd"),
        ("adam", {"weight_decay": 0.1}, "`weight_decay` 0.1 does not apply"),
        ("agd", {"gain": -1.0}, "method agd: `gain` must lie in"),
        ("agd", {"momentum": 1.0}, "`momentum` 1.0 is out of range"),
        ("sgd", {"momentum": 1.0}, "`momentum` 1.0 is out of range"),
        ("adamw", {"weight_decay": -1.0}, "`weight_decay` -1.0 is out of range"),
        ("sgd", {"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ("sgd", {"learning_rate": float("nan")}, "`learning_rate` must be above 0"),
        ("sgd", {"schedule": "foo"}, "unknown schedule 'foo'"),
        ("sgd", {"inner": "adam"}, "`inner` adam does not apply to method sgd"),
        ("hd", {"inner": "adamm"}, "unknown inner 'adamm' .did you mean 'adam'"),
        (
            "hd",
            {"inner": "adam", "momentum": 0.5},
            "`momentum` 0.5 does not apply to method hd with inner adam, which takes",
        ),
        ("hd", {"momentum": 1.0}, "`momentum` 1.0 is out of range"),
        ("hd", {"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ("hd", {"discount": 0.5}, "`discount` 0.5 does not apply to method hd"),
        ("hd", {"rule": "foo"}, "method hd with inner sgd: unknown rule 'foo'; choose"),
        ("rtho", {"hyper_learning_rate": -1.0}, "`hyper_learning_rate` must lie in"),
        ("marthe", {"rule": "additive"}, "needs a `hyper_learning_rate`"),
        ("marthe", {"discount": 2.0}, "`discount` must lie in .0, 1."),
        ("marthe", {"adaptation_rate": -1.0}, "`adaptation_rate` must lie in"),
    ],
)
def test_what_cannot_be_built_is_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(name, settings, total_steps=10)


def test_rtho_and_marthe_differ_by_the_discount():
    """Hypergradients of (w - 3)^2 / 2 by hand, with the additive rule at 0.01."""
    rates = {}
    for name, discount in (("rtho", None), ("marthe", 0.5), ("hd", None)):
        settings = {"learning_rate": 0.5, "hyper_learning_rate": 0.01, "momentum": 0.0}
        settings["discount"] = discount
        tx = build_optimizer(name, settings, total_steps=3)
        loss = lambda w: jnp.square(w - 3) / 2
        w = jnp.array(1.0)
        state = tx.init(w)
        for _ in range(3):
            updates, state = tx.update(w - 3, state, w, value_fn=loss)
            w = optax.apply_updates(w, updates)
        rates[name] = float(hp.get_learning_rate(state))
    for name, discount in (("rtho", 1.0), ("marthe", 0.5), ("hd", 0.0)):
        w, rate, tangent = 1.0, 0.5, 0.0
        for _ in range(3):
            gradient = w - 3
            rate -= 0.01 * gradient * tangent
            tangent = discount * (1 - rate) * tangent - gradient
            w -= rate * gradient
        assert rates[name] == pytest.approx(rate, rel=1e-6)
    assert len(set(rates.values())) == 3


def test_a_row_is_told_the_length_and_may_depend_on_it(monkeypatch):
    lengths = []

    def build(length, rate):
        lengths.append(length)
        return optax.sgd(rate)

    row = Method(build, {"rate": 0.1}, "default", "a test", has_horizon=True)
    monkeypatch.setitem(METHODS, "row", row)
    build_optimizer("row", total_steps=6, steps_per_epoch=3)
    assert lengths == [Length(6, 3)]
    assert depends_on_total_steps("row", {})


def test_only_schedules_and_warmup_depend_on_the_length():
    assert not depends_on_total_steps("agd", {})
    assert not depends_on_total_steps("sgd", {"learning_rate": 0.1})
    assert not depends_on_total_steps("marthe", {"inner": "adam"})
    assert depends_on_total_steps("sgd", {"schedule": "cosine"})
    assert depends_on_total_steps("adam", {"warmup_fraction": 0.1})
