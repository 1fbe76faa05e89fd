"""AGD under the spectral norm against singular value decompositions in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hpfree_jax as hp
from tests.contract import RULES
from tests.methods import SPECTRAL_PARTS
from tests.problems import make_params

RNG = np.random.default_rng(0)
LAYOUT = hp.Layout(
    {
        "dense": hp.Matrix(0, 1, scale_divisor=2, depth_count=3),
        "bias": hp.Vector("dense"),
        "conv": hp.Matrix(2, 3, position_axes=(0, 1)),
        "query": hp.Matrix(0, (1, 2)),
        "stack": hp.Matrix(1, 2, stack_axes=0),
        "gamma": hp.Vector("stack", stack_axes=0),
        "flipped": hp.Matrix(1, 0),
        "frozen": None,
    }
)
SHAPES = {
    "dense": (6, 4),
    "bias": (4,),
    "conv": (3, 2, 2, 5),
    "query": (8, 2, 3),
    "stack": (3, 4, 6),
    "gamma": (3, 6),
    "flipped": (5, 6),
    "frozen": (2,),
}
DEPTH = 3 + 1 + 1 + 3 + 1


def factor(matrix):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def expected_directions(grads):
    """s_k U V^T of every matrix, and vectors by the norm of their leaders."""
    g, norm = grads, np.linalg.norm
    scale = {
        "dense": math.sqrt(4 / (2 * 6)),
        "conv": math.sqrt(5 / 2 / 6),
        "query": math.sqrt(6 / 8),
        "stack": math.sqrt(6 / 4),
        "flipped": math.sqrt(5 / 6),
    }
    directions = {
        "dense": factor(g["dense"]),
        "conv": factor(g["conv"].reshape(12, 5)).reshape(3, 2, 2, 5),
        "query": factor(g["query"].reshape(8, 6)).reshape(8, 2, 3),
        "stack": np.stack([factor(matrix) for matrix in g["stack"]]),
        "flipped": factor(g["flipped"]),
    }
    directions = {name: scale[name] * d for name, d in directions.items()}
    directions["bias"] = scale["dense"] * g["bias"] / norm(g["dense"])
    norms = norm(g["stack"], axis=(1, 2))[:, None]
    directions["gamma"] = scale["stack"] * g["gamma"] / norms
    directions["frozen"] = np.zeros(2)
    return directions


@jax.jit
def expected_rate(grads):
    """The rate of AGD: its summary keeps the Frobenius norm."""
    frobenius = hp.scale_by_agd(layout=LAYOUT)
    return frobenius.update(grads, frobenius.init(grads))[1].learning_rate


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_updates_are_those_of_the_singular_value_decomposition(momentum):
    steps = [{name: RNG.normal(size=s) for name, s in SHAPES.items()} for _ in range(3)]
    averages = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    with jax.enable_x64(True):
        tx = hp.agd(2.0, LAYOUT, norm="spectral", momentum=momentum)
        update = jax.jit(tx.update)
        state = tx.init(steps[0])
        for grads in steps:
            averages = {
                name: momentum * averages[name] + (1 - momentum) * grads[name]
                for name in grads
            }
            updates, state = update(grads, state, grads)
            rate = expected_rate(grads)
            np.testing.assert_allclose(state.learning_rate, rate, rtol=1e-12)
            for name, direction in expected_directions(averages).items():
                np.testing.assert_allclose(
                    updates[name], -2 * rate / DEPTH * direction, rtol=0, atol=1e-10
                )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_gradients_are_orthogonalised_in_float32(dtype):
    grads = {"kernel": jnp.asarray(RNG.normal(size=(6, 9)), dtype)}
    tx = hp.scale_by_agd(norm="spectral")
    updates, state = jax.jit(tx.update)(grads, tx.init(grads))
    assert updates["kernel"].dtype == dtype
    exact = np.asarray(grads["kernel"], np.float64)
    expected = state.learning_rate * math.sqrt(9 / 6) * factor(exact)
    tolerance = float(state.learning_rate) * (2e-3 + float(jnp.finfo(dtype).eps))
    found = np.asarray(updates["kernel"], np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_zero_and_non_finite_gradients():
    grads = {
        "a": {"kernel": jnp.zeros((3, 4)), "bias": jnp.ones(4)},
        "b": {"kernel": jnp.ones((4, 2))},
    }
    tx = hp.agd(norm="spectral", momentum=0.5)
    update = jax.jit(tx.update)
    updates, state = update(grads, tx.init(grads))
    assert not np.any(updates["a"]["kernel"])
    assert not np.any(updates["a"]["bias"])
    assert np.all(updates["b"]["kernel"] < 0)
    broken = {**grads, "b": {"kernel": jnp.full((4, 2), jnp.nan)}}
    updates, same = update(broken, state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_rotated_gradients_give_rotated_updates():
    """The spectral norm knows no basis; rounding apart."""
    rotation = factor(RNG.normal(size=(6, 6)))
    grad = RNG.normal(size=(6, 4))
    tx = hp.scale_by_agd(norm="spectral")

    @jax.jit
    def update(grad):
        grads = {"kernel": jnp.asarray(grad, jnp.float32)}
        return tx.update(grads, tx.init(grads))[0]["kernel"]

    np.testing.assert_allclose(
        update(rotation @ grad), rotation @ update(grad), atol=1e-5
    )


def test_the_compiled_update_grows_with_the_shapes_and_not_with_the_leaves():
    def size(num_layers):
        grads = [make_params() for _ in range(num_layers)]
        tx = hp.agd(norm="spectral", layout=hp.infer_layout(grads))
        text = jax.jit(tx.update).lower(grads, tx.init(grads)).as_text()
        return text.count("dot_general")

    assert size(6) == size(2)


def test_it_trains_a_deep_network_that_the_published_rate_suits():
    """End to end: a digit-like problem, without any setting."""
    x = jnp.asarray(RNG.normal(size=(64, 8)), jnp.float32)
    y = jnp.sign(x[:, :1] * x[:, 1:2])
    init = hp.initializers.scaled_orthogonal()
    sizes = [(8, 32), (32, 32), (32, 1)]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [{"kernel": init(k, s)} for k, s in zip(keys, sizes, strict=True)]

    def loss(params):
        apply = lambda h, layer: math.sqrt(2) * jax.nn.relu(h @ layer["kernel"])
        hidden = functools.reduce(apply, params[:-1], x)
        return jnp.mean((hidden @ params[-1]["kernel"] - y) ** 2)

    tx = hp.agd(norm="spectral", momentum=0.9)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state, before = tx.init(params), loss(params)
    for _ in range(100):
        params, state = step(params, state)
    assert loss(params) < 0.1 * before


@pytest.mark.slow
@pytest.mark.parametrize("method", SPECTRAL_PARTS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_contract(rule, method):
    rule(method)
