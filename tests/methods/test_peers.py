"""The methods of optax.contrib in the table, beside optax's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import hpfree_jax as hp
from hpfree_jax.data import Examples
from hpfree_jax.methods._contrib import PEERS
from hpfree_jax.training import METHODS, build_optimizer, resume, train
from hpfree_jax.training._state import prepare
from tests.training.conftest import evaluate_on, read_metrics

STEPS = 30
PARAMS = {"w": jnp.full((2, 2), 0.1), "b": jnp.zeros(())}
DEFAULTS = {
    "prodigy": contrib.prodigy(),
    "dadapt_adamw": contrib.dadapt_adamw(),
    "dog": contrib.dog(),
    "dowg": contrib.dowg(),
    "cocob": contrib.cocob(),
    "mechanize": contrib.mechanize(optax.adam(1.0)),
    "momo": contrib.momo(),
    "momo_adam": contrib.momo_adam(),
    "schedule_free_adamw": contrib.schedule_free_adamw(),
    "muon": contrib.muon(0.02),
}


def loss(params):
    residual = jnp.array([[1.0, -2.0], [0.5, 3.0]]) - params["w"]
    return jnp.sum(jnp.array([1.0, 30.0]) * residual**2) + (params["b"] - 1) ** 2


def history(optimizer):
    """The params after all steps, and each step's state, gradients and updates."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        carry = (optax.apply_updates(params, updates), state)
        return carry, (*carry, grads, updates)

    return jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), length=STEPS)[1]


@functools.cache
def run(name, **settings):
    """What happens with a method of the table, and with optax's own, at each step."""
    ours = build_optimizer(name, settings, total_steps=STEPS)
    both = jax.jit(lambda: (history(ours), history(DEFAULTS[name])))
    return both()


def rates(state):
    return np.asarray(jax.vmap(hp.get_learning_rate)(state))


def test_every_peer_is_compared_with_optax():
    assert PEERS.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_optax_s_own_at_its_defaults(name):
    (ours, *_), (theirs, *_) = run(name)
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, rtol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", PEERS)
def test_parameters_and_state_can_both_be_donated(name):
    params = jax.tree.map(jnp.copy, PARAMS)
    state = build_optimizer(name, total_steps=STEPS).init(params)
    pass_on = lambda *args: jax.lax.optimization_barrier(args)
    jax.jit(pass_on, donate_argnums=(0, 1))(params, state)


@pytest.mark.parametrize("settings", [{}, {"schedule": "cosine"}])
def test_the_rate_times_the_gradient_is_the_update_of_dog(settings):
    (_, state, grads, updates), _ = run("dog", **settings)
    expected = -rates(state)[:, None, None] * grads["w"]
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)


def test_the_rate_times_the_gradient_is_the_update_of_dowg():
    (_, state, grads, updates), _ = run("dowg")
    expected = -rates(state)[:, None, None] * grads["w"]
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw"])
def test_an_estimated_rate_is_that_of_the_update(name):
    (_, state, _, _), _ = run(name)
    estimates = np.asarray(state.inner_state.estim_lr)
    expected = [1e-6, *estimates[:-1]]  # the first is documented
    np.testing.assert_array_equal(rates(state), np.array(expected, np.float32))
    assert estimates[-1] > 1e-3


def test_mechanic_s_rate_is_the_scale_of_what_it_has_summed():
    (params, state, *_), _ = run("mechanize")
    # x = x0 + s * (the sum of Adam's updates), and Adam's first one has size 1.
    moved = np.abs(params["b"][0] - PARAMS["b"])
    np.testing.assert_allclose(moved, rates(state)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rate"), [("muon", 0.02), ("schedule_free_adamw", 2.5e-3)]
)
def test_a_given_rate_is_shown_as_it_is(name, rate):
    (_, state, _, _), _ = run(name)
    np.testing.assert_allclose(rates(state), rate)


@pytest.mark.parametrize("name", ["cocob", "momo", "momo_adam"])
def test_a_method_without_one_rate_has_none(name):
    (_, state, _, _), _ = run(name)
    assert np.isnan(rates(state)).all()


def test_warm_up_of_schedule_free_is_shown_as_it_happens():
    (_, state, _, _), _ = run("schedule_free_adamw", warmup_fraction=0.1)
    np.testing.assert_allclose(rates(state), state.inner_state.max_lr, rtol=1e-6)
    assert len(set(rates(state).tolist())) == 3  # of 30 steps


def test_schedule_free_is_evaluated_at_its_average():
    (params, state, _, _), _ = run("schedule_free_adamw")
    last_params, last = jax.tree.map(lambda x: x[-1], (params, state))
    average = METHODS["schedule_free_adamw"].evaluation_params(last, last_params)
    # y = 0.9 x + 0.1 z, by the definition of the method.
    for key, y in last_params.items():
        z = last.inner_state.z[key]
        np.testing.assert_allclose(y, 0.9 * average[key] + 0.1 * z, rtol=1e-5)
    assert not np.allclose(average["w"], last_params["w"], rtol=1e-3)


def test_the_trainer_evaluates_schedule_free_at_its_average(config, digits):
    task, state = prepare(config(method="schedule_free_adamw"), digits)
    # With z = 0 the average is y / 0.9.
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    inner = state.opt_state.inner_state._replace(z=zeros)
    test = Examples(digits.test_images, digits.test_labels)
    found = evaluate_on(task, test)(
        state._replace(opt_state=state.opt_state._replace(inner_state=inner))
    )
    plain = task._replace(method=METHODS["adam"])
    params = jax.tree.map(lambda y: y / 0.9, state.params)
    expected = evaluate_on(plain, test)(state._replace(params=params))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_trainer_leaves_a_rate_out_that_there_is_not(config):
    result = train(config(method="cocob", epochs=1))
    lines = read_metrics(result.directory)
    assert not any("learning_rate" in line for line in lines)
    assert sum("loss" in line for line in lines) == 3


@pytest.mark.slow
def test_a_run_of_a_peer_can_be_resumed(config):
    whole = train(config("whole", method="dog"))
    train(config("parts", method="dog", epochs=1))
    parts = resume(config("parts").output_dir, {"epochs": 2})
    for name in ("params", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(parts.state, name),
            getattr(whole.state, name),
        )
    assert read_metrics(parts.directory) == read_metrics(whole.directory)
