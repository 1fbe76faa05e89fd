"""Traces of the PyTorch port (float64): parity where it is right, deviations named.

Its step t (from 1) goes from w_{t-1} to w_t on training batch t and then reads the
hypergradient of validation batch t at w_t; that is our call t, counted from 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from tests.reference import STORED_HYPERGRADIENTS, load_case, load_stored

EXACT = 1e-10  # relative, of float64 recurrences over 20 steps


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def load(name):
    """Six traces are stored with the tests, and never skipped."""
    stored = name in STORED_HYPERGRADIENTS
    return (load_stored if stored else load_case)("adatune", name)


@pytest.mark.parametrize("name", STORED_HYPERGRADIENTS)
def test_a_stored_trace_is_the_original(name):
    settings, arrays = load_stored("adatune", name)
    original_settings, original = load_case("adatune", name)
    assert settings.items() <= original_settings.items()
    assert arrays.keys() == original.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, original[key])


def cross_entropy(params, batch):
    x, labels = batch
    hidden = jnp.tanh(x @ params["fc1.weight"].T + params["fc1.bias"])
    logits = hidden @ params["fc2.weight"].T + params["fc2.bias"]
    losses = jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(labels)), labels]
    return jnp.mean(losses)


def run(tx, weight_decay=0.0, validate=True):
    """The 20 steps of the traces; returns the states after calls 1 to 20 and params."""
    _, data = load("problem")
    params = {
        name.removeprefix("init."): jnp.asarray(value)
        for name, value in data.items()
        if name.startswith("init.")
    }
    # Call t trains on batch t + 1 and validates on batch t; the ends are not used.
    next_batch = lambda array: jnp.concatenate([array, array[-1:]])
    same_batch = lambda array: jnp.concatenate([array[:1], array])
    batches = (
        (next_batch(data["x_train"]), next_batch(data["y_train"])),
        (same_batch(data["x_val"]), same_batch(data["y_val"])),
    )

    def regularised(params, batch):
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return cross_entropy(params, batch) + weight_decay / 2 * squares

    def step(carry, batches):
        params, state = carry
        train, held_out = batches
        value_fn = lambda p: regularised(p, train)
        validation_fn = (lambda p: cross_entropy(p, held_out)) if validate else None
        updates, state = tx.update(
            jax.grad(value_fn)(params),
            state,
            params,
            value_fn=value_fn,
            validation_fn=validation_fn,
        )
        return (optax.apply_updates(params, updates), state), (state, params)

    carry = (params, tx.init(params))
    return jax.jit(lambda: jax.lax.scan(step, carry, batches)[1])()


def rates(states):
    return states.hyperparams["learning_rate"][1:]


def hypergradients(states):
    return states.hypergradients["learning_rate"][1:]


def sgd(settings):
    return functools.partial(optax.sgd, momentum=settings["momentum"] or None)


def test_parity_of_gradient_descent_while_the_first_rate_is_right():
    """Constant rate, no decay: the port is exact, and so are we."""
    settings, trace = load("truth_sgd_m0_wd0")
    states, _ = run(hp.rtho(sgd(settings), settings["lr"], 0.0))
    for array in ("ref_hypergrad", "true_hypergrad_ad", "exact_recursion"):
        np.testing.assert_allclose(hypergradients(states), trace[array], rtol=EXACT)


@pytest.mark.parametrize("name", ["first_order", "mu1_al0_wd0", "mup99_al0_wd0"])
def test_parity_of_gradient_descent_with_a_moving_rate(name):
    """Whole traces where no Hessian enters; else the two steps before a stale rate."""
    settings, trace = load(f"musgd_m0_{name}")
    discount = 0 if settings["first_order"] else settings["mu"]
    tx = hp.hypergradient(
        sgd(settings),
        {"learning_rate": settings["lr"]},
        settings["hyper_lr"],
        discount=discount,
    )
    states, params = run(tx)
    same = slice(None) if settings["first_order"] else slice(1)
    np.testing.assert_allclose(
        hypergradients(states)[same], trace["hypergrad"][same], rtol=EXACT
    )
    np.testing.assert_allclose(rates(states)[same], trace["lr"][same], rtol=EXACT)
    if settings["first_order"]:
        for key, value in params.items():
            np.testing.assert_allclose(
                value, trace[f"param.{key}"], rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize(
    "name",
    [
        "sgd_m0_wd0.0005",
        "sgd_m0_wd0.05",
        "sgd_m9_wd0",
        "sgd_m9_wd0.05",
        "adam_eps0.01_wd0",
        "adam_eps0.01_wd0.0005",
        "adam_eps0.0001_wd0.0005",
        "adam_eps1e-08_wd0",
    ],
)
def test_the_true_derivative_where_the_port_is_wrong(name):
    """Decay, momentum and Adam: ours is the stored truth, the port's is not."""
    settings, trace = load(f"truth_{name}")
    inner = (
        sgd(settings)
        if "sgd" in name
        else functools.partial(optax.adam, eps=settings["eps"])
    )
    states, _ = run(hp.rtho(inner, settings["lr"], 0.0), settings["wd"])
    truth = trace["true_hypergrad_ad"]
    error = np.abs(hypergradients(states) - truth) / np.max(np.abs(truth))
    assert error.max() < 1e-8
    port = np.nan_to_num(trace["ref_hypergrad"])
    assert np.max(np.abs(port - truth) / np.max(np.abs(truth))) > 1e-5


@pytest.mark.parametrize("name", ["moving_sgd_m0", "moving_sgd_m9", "moving_adam"])
def test_a_moving_rate_is_not_stale(name):
    """The port keeps the first rate in its recursion; the truth uses each step's."""
    settings, trace = load(f"truth_{name}")
    schedule = jnp.asarray(trace["lr_used"] - settings["lr"])

    def inner(learning_rate):
        rate = lambda count: learning_rate + schedule[count]
        if "sgd" in name:
            return optax.sgd(rate, momentum=settings["momentum"] or None)
        return optax.adam(rate, eps=settings["eps"])

    states, _ = run(hp.rtho(inner, settings["lr"], 0.0))
    truth = trace["true_hypergrad_ad"]
    error = np.abs(hypergradients(states) - truth) / np.max(np.abs(truth))
    assert error.max() < 1e-8
    port = np.nan_to_num(trace["ref_hypergrad"])
    assert np.max(np.abs(port - truth)) > 1e-3


def test_the_discount_follows_the_hypergradient_and_not_the_rate():
    """The port's quotient has the new learning rate as its numerator."""
    settings, trace = load("musgd_m0_muauto_al0_wd0")
    states, _ = run(
        hp.marthe(
            sgd(settings), settings["lr"], settings["hyper_lr"], adaptation_rate=0.0
        )
    )
    assert np.max(np.abs(states.discount[2:] - trace["mu"][1:])) > 0.01
    # Ours, from its own recorded quantities: at call 2, z = clip(D_1 / <B_1, e_2>).
    assert states.discount[0] == 0
    assert states.discount[1] == 0
    assert np.all((states.discount >= 0) & (states.discount <= 1))


def test_the_hyper_learning_rate_follows_two_hypergradients():
    """The port multiplies by the new rate instead of the hypergradient before."""
    settings, trace = load("musgd_m0_alpha_big")
    tx = hp.marthe(
        sgd(settings),
        settings["lr"],
        settings["hyper_lr"],
        discount=settings["mu"],
        adaptation_rate=settings["alpha"],
    )
    states, _ = run(tx)
    d = np.concatenate([[0.0], hypergradients(states)])
    expected = [settings["hyper_lr"]]
    for t in range(2, 21):
        expected.append(max(0, expected[-1] + settings["alpha"] * d[t - 1] * d[t - 2]))
    np.testing.assert_allclose(states.hyper_learning_rate[1:], expected, rtol=EXACT)
    assert np.max(np.abs(states.hyper_learning_rate[1:] - trace["hyper_lr"])) > 1e-3


def test_the_cap_is_on_the_hypergradient_and_not_on_gradients():
    """The port clamps each entry of each gradient, and trains on the clamped one."""
    settings, trace = load("musgd_m0_clip_small")
    tx = hp.rtho(
        sgd(settings),
        settings["lr"],
        settings["hyper_lr"],
        clip_hypergradient=settings["clip"],
    )
    _, params = run(tx)
    plain = hp.rtho(sgd(settings), settings["lr"], 0.0)
    _, unclamped = run(plain)
    np.testing.assert_array_equal(params["fc1.weight"][1], unclamped["fc1.weight"][1])
    port = trace["param.fc1.weight"][1]
    assert np.max(np.abs(port - unclamped["fc1.weight"][1])) > 1e-4


@pytest.mark.parametrize("name", ["m0_wd0", "m9_wd0"])
def test_parity_of_hypergradient_descent(name):
    settings, trace = load(f"sgdhd_{name}")
    inner = functools.partial(optax.sgd, momentum=settings.get("momentum"))
    tx = hp.hd(inner, settings["lr"], settings["hypergrad_lr"])
    states, params = run(tx, validate=False)
    np.testing.assert_allclose(
        states.hyperparams["learning_rate"][:-1], trace["lr"], rtol=EXACT
    )
    found = params["fc1.weight"][1:]
    np.testing.assert_allclose(
        found, trace["param.fc1.weight"][1:], rtol=1e-9, atol=1e-12
    )
