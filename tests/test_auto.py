"""hp.auto against a float64 recurrence; its limits, and the models it trains."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization

import hpfree_jax as hp
from hpfree_jax import _auto, models
from tests.contract import (
    a_checkpoint_continues_bit_for_bit,
    a_non_finite_step_does_not_corrupt,
    assert_finite,
    assert_same,
    fresh_params_and_state_can_be_donated,
    nothing_recompiles,
)
from tests.methods import PARAMS, Method, two_layers
from tests.models.abstract import filled

RNG = np.random.default_rng(0)
SHAPES = {
    "embed": (5, 4),
    "gain": (4,),
    "w": (4, 6),
    "b": (6,),
    "v": (6, 3),
    "temperature": (),
}
DEPTH = 3  # of the one path: embed, w, v
TOKENS = jax.ShapeDtypeStruct((2, 3), jnp.int32)


def model(params, tokens):
    hidden = params["embed"][tokens] * params["gain"]
    hidden = jax.nn.relu(hidden @ params["w"] + params["b"])
    return hidden @ params["v"], params["temperature"]


def make_tree(dtype=None):
    return {n: jnp.asarray(RNG.normal(size=s), dtype) for n, s in SHAPES.items()}


ARCH = hp.trace_architecture(model, make_tree(jnp.float32), TOKENS)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def make(total_steps, dtype=jnp.float32):
    return hp.auto(make_tree(dtype), ARCH, total_steps)


def run(tx, steps, params, state=None):
    """Takes one step for each of the gradients."""
    update = jax.jit(tx.update)
    state = tx.init(params) if state is None else state
    for grads in steps:
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


# --- the recipe -----------------------------------------------------------------------


def directions(g):
    """By singular value decomposition, and by root mean square."""

    def factor(matrix):
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        return left @ right

    unit = lambda x, axis=None: x / np.sqrt(np.mean(x**2, axis, keepdims=True))
    return {
        "embed": unit(g["embed"], 1),
        "gain": unit(g["gain"]),
        "w": math.sqrt(6 / 4) * factor(g["w"]),
        "b": unit(g["b"]),
        "v": math.sqrt(3 / 6) * factor(g["v"]),
        "temperature": np.sign(g["temperature"]),  # one row of one number
    }


def test_steps_are_those_of_the_recurrence_and_stay_at_the_last_rate():
    total_steps, mu = 4, _auto.MOMENTUM
    average = lambda old, new: mu * old + (1 - mu) * new
    with jax.enable_x64(True):
        params = make_tree()
        tx = hp.auto(params, ARCH, total_steps)
        expected = jax.tree.map(np.asarray, params)
        averages = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        state, update = tx.init(params), jax.jit(tx.update)
        assert hp.get_learning_rate(state) == pytest.approx(_auto.RATE / DEPTH)
        for step in range(total_steps + 2):
            grads = make_tree()
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            averages = {n: average(averages[n], grads[n]) for n in grads}
            d = directions({n: average(averages[n], grads[n]) for n in grads})
            rate = _auto.RATE / DEPTH * (1 - min(step, total_steps - 1) / total_steps)
            for name, old in expected.items():
                decayed = name in ("embed", "w", "v")
                decay = _auto.DECAY * (DEPTH - 1) * old if decayed else 0
                factor = _auto.READOUT if name == "v" else 1
                expected[name] = old - rate * (factor * d[name] + decay)
                np.testing.assert_allclose(
                    params[name], expected[name], rtol=0, atol=1e-8, err_msg=name
                )
            np.testing.assert_allclose(state.learning_rate, rate, rtol=1e-12)
            assert int(state.count) == step + 1
            assert bool(state.past_horizon) == (step + 1 > total_steps)


@pytest.mark.parametrize(("depth", "times"), [(1, 0), (5, 4), (12, 10)])
def test_the_decay_grows_with_depth_up_to_a_limit(depth, times):
    params = {f"w{i:02}": jnp.eye(4) for i in range(depth)}
    model = lambda params, x: functools.reduce(jnp.matmul, params.values(), x)
    tx = hp.auto(params, hp.trace_architecture(model, params, jnp.ones((2, 4))), 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    expected = -_auto.RATE / depth * _auto.DECAY * times * np.eye(4)
    np.testing.assert_allclose(updates["w00"], expected, rtol=1e-5, atol=1e-9)


def test_a_horizon_of_one_step():
    params = make_tree(jnp.float32)
    steps = [make_tree(jnp.float32) for _ in range(3)]
    tx = make(1)
    _, state = run(tx, steps[:1], params)
    assert state.learning_rate == pytest.approx(_auto.RATE / DEPTH)
    assert not state.past_horizon
    _, state = run(tx, steps, params)
    assert state.learning_rate == pytest.approx(_auto.RATE / DEPTH)
    assert state.past_horizon


def test_a_skipped_call_is_no_step_towards_the_horizon():
    params, grads = make_tree(jnp.float32), make_tree(jnp.float32)
    broken = {**grads, "b": jnp.full(6, jnp.inf)}
    tx = make(2)
    after, state = run(tx, [grads, broken, grads], params)
    expected, expected_state = run(tx, [grads, grads], params)
    assert_same((after, state), (expected, expected_state))
    assert not state.past_horizon


def test_a_run_continues_across_the_horizon_bit_for_bit():
    params = make_tree(jnp.float32)
    steps = [make_tree(jnp.float32) for _ in range(5)]
    whole = run(make(3), steps, params)
    stored = serialization.to_bytes(run(make(3), steps[:3], params))
    fresh = make(3)
    middle = serialization.from_bytes((params, fresh.init(params)), stored)
    params, state = jax.tree.map(jnp.asarray, middle)
    assert not state.past_horizon
    found = run(fresh, steps[3:], params, state)
    assert_same(found, whole)
    assert found[1].past_horizon


def test_shapes_are_enough_and_dtypes_may_differ():
    params = make_tree(jnp.float32)
    shapes = jax.eval_shape(lambda: params)
    steps = [make_tree(jnp.float32) for _ in range(2)]
    expected = run(make(5), steps, params)
    assert_same(run(hp.auto(shapes, ARCH, 5), steps, params), expected)
    low = optax.tree.cast(params, jnp.bfloat16)
    found, state = run(make(5), optax.tree.cast(steps, jnp.bfloat16), low)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {low["w"].dtype}
    assert state.learning_rate.dtype == jnp.float32
    for name, leaf in found.items():
        np.testing.assert_allclose(
            leaf.astype(jnp.float32), expected[0][name], rtol=0.03, atol=0.03
        )


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total_steps", "error", "found"),
    [
        (0, ValueError, "got 0"),
        (-1, ValueError, "got -1"),
        (1.5, ValueError, "got 1.5"),
        (math.nan, ValueError, "got nan"),
        (math.inf, ValueError, "got inf"),
        (True, TypeError, "got True"),
        (None, TypeError, "got None"),
        (np.ones(1), TypeError, "got array"),
    ],
)
def test_a_horizon_is_a_whole_number_of_steps(total_steps, error, found):
    message = f"`total_steps` must be the number of updates.*{found}"
    with pytest.raises(error, match=message):
        make(total_steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": jnp.ones((4, 7))}, r"`w` has the shape \(4, 7\), not \(4, 6\)"),
        (
            {"embed": jnp.ones((6, 4)), "v": jnp.ones((6, 2))},  # the first of two
            r"`embed` has the shape \(6, 4\), not \(5, 4\)",
        ),
        ({"extra": jnp.ones(2)}, r"the model has no `extra` of shape \(2,\)"),
    ],
)
def test_an_architecture_of_another_model_names_the_first_difference(change, message):
    with pytest.raises(ValueError, match="not those of the traced model"):
        hp.auto({**make_tree(), **change}, ARCH, 10)
    with pytest.raises(ValueError, match=message):
        hp.auto({**make_tree(), **change}, ARCH, 10)


def test_a_missing_parameter_is_named():
    params = make_tree()
    del params["v"]
    with pytest.raises(ValueError, match=r"`v` of shape \(6, 3\) is missing"):
        hp.auto(params, ARCH, 10)
    with pytest.raises(ValueError, match="has a rule for `v`, which the parameters"):
        make(10).init(params)


def test_the_model_is_no_architecture():
    with pytest.raises(TypeError, match=r"must come from hp.trace_architecture"):
        hp.auto(make_tree(), model, 10)


def test_update_without_params_says_what_to_call():
    tx, params = make(10), make_tree(jnp.float32)
    with pytest.raises(ValueError, match=r"call tx.update\(grads, state, params\)"):
        tx.update(params, tx.init(params))


def test_a_model_without_a_matrix_warns_and_trains():
    """Scales and shifts alone; they have no leader to follow."""
    params = {"scale": jnp.ones(4), "shift": jnp.zeros(4), "power": jnp.ones(())}
    x = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)
    apply = lambda p, x: x * p["scale"] * p["power"] + p["shift"]
    arch = hp.trace_architecture(apply, params, x)
    with pytest.warns(UserWarning, match="no layer, so that hp.auto has no matrix"):
        tx = hp.auto(params, arch, 60)
    loss = lambda p: jnp.mean((apply(p, x) - (2 * x + 1)) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, before = tx.init(params), loss(params)
    assert state.learning_rate == pytest.approx(_auto.RATE)
    for _ in range(60):
        params, state = step(params, state)
    assert loss(params) < 0.02 * before


# --- frozen, tied, low rank -----------------------------------------------------------


@pytest.mark.parametrize("frozen", ["w", "embed", "b"])
def test_freezing_leaves_the_others_as_they_were(frozen):
    """Also of a matrix that others follow, as where biases alone are tuned."""
    params = make_tree(jnp.float32)
    steps = [make_tree(jnp.float32) for _ in range(2)]
    expected, whole_state = run(make(5), steps, params)
    labels = {name: "frozen" if name == frozen else "train" for name in params}
    tx = optax.partition({"train": make(5), "frozen": optax.set_to_zero()}, labels)
    found, state = run(tx, steps, params)
    assert_same(found[frozen], params[frozen])
    for name in params:
        if name != frozen:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
    assert hp.get_learning_rate(state) == whole_state.learning_rate
    gone = {**params, frozen: None}
    tx = hp.auto(gone, ARCH, 5)
    deleted, _ = run(tx, [{**grads, frozen: None} for grads in steps], gone)
    assert_same({**deleted, frozen: params[frozen]}, found)


def test_a_tied_table_is_one_table():
    """Looked up and multiplied with; normalised row by row, and decayed once."""
    sizes = {"vocabulary": 11, "depth": 1, "width": 8, "heads": 2, "context": 6}
    gpt = filled(lambda: models.GPT(**sizes, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(gpt, nnx.Param))
    arch = hp.trace_architecture(gpt, jax.ShapeDtypeStruct((4, 6), jnp.int32))
    tx = hp.auto(params, arch, 10)
    grads = jax.tree.map(lambda p: jnp.ones_like(p).at[..., 0].set(3.0), params)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    decay = state.learning_rate * _auto.DECAY * (arch.mean_path_depth - 1)
    for table in ("tokens", "positions"):
        step = -(updates[table]["embedding"] + decay * params[table]["embedding"])
        mean_square = jnp.mean((step / state.learning_rate) ** 2, axis=1)
        np.testing.assert_allclose(mean_square, 1, rtol=1e-3)
        np.testing.assert_allclose(step[:, 0] / step[:, 1], 3, rtol=1e-3)


def count_basis_numbers(arch, params):
    state = jax.eval_shape(hp.auto(params, arch, 10).init, params)
    return sum(leaf.size for leaf in jax.tree.leaves(state.direction.bases))


@pytest.mark.parametrize(
    ("batch_size", "costs"),
    # Multiplications of the orthogonalisation over those of the gradient: with r rows,
    # c columns and B inputs, (12 r + 6 r^2 / c) / 3B, and of a long matrix
    # (2 r + 21 r^2 / c) / 3B, by hand.
    [
        (128, {"64 x 256": 464 / 384, "256 x 256": 4608 / 384, "10 x 256": 28 / 384}),
        (4096, {"64 x 256": 0.0378, "256 x 256": 0.375, "10 x 256": 0.0023}),
    ],
)
def test_expensive_matrices_have_a_rank(batch_size, costs):
    shapes = {"a": (64, 256), "b": (256, 256), "c": (256, 10)}
    params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
    apply = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]
    x = jax.ShapeDtypeStruct((batch_size, 64), jnp.float32)
    expected = 0
    for name, cost in costs.items():
        rows = int(name.split()[0])
        rank = max(_auto.MIN_RANK, rows // 8)
        if cost > _auto.SHARE and rank < rows:
            expected += rows * rank
    arch = hp.trace_architecture(apply, params, x)
    assert count_basis_numbers(arch, params) == expected


@pytest.mark.parametrize("batch_size", [2, 4])
def test_positions_of_a_convolution_count_as_inputs(batch_size):
    """64 x 576 long: 277.3 / 3B of the gradient, B = 64 positions an example."""
    params = {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)}
    apply = lambda p, x: jax.lax.conv_general_dilated(
        x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.ShapeDtypeStruct((batch_size, 8, 8, 64), jnp.float32)
    arch = hp.trace_architecture(apply, params, x)
    is_expensive = 277.3 / (3 * 64 * batch_size) > _auto.SHARE
    rank = max(_auto.MIN_RANK, 8)
    expected = 64 * rank if is_expensive and rank < 64 else 0
    assert count_basis_numbers(arch, params) == expected


@pytest.mark.parametrize(
    "rule",
    [
        a_checkpoint_continues_bit_for_bit,
        a_non_finite_step_does_not_corrupt,
        fresh_params_and_state_can_be_donated,
        nothing_recompiles,
    ],
    ids=lambda rule: rule.__name__,
)
def test_the_contract_holds_with_leading_directions(rule, monkeypatch):
    """The table of methods has matrices that are smaller than the smallest rank."""
    monkeypatch.setattr(_auto, "MIN_RANK", 2)
    arch = hp.trace_architecture(two_layers, PARAMS, jnp.zeros((1, 8)))
    factory = functools.partial(hp.auto, PARAMS, arch)
    method = Method("auto-leading", factory, {"total_steps": 8})
    assert method.make().init(PARAMS).direction.bases.size == 2 * 8 * 2
    rule(method)


# --- end to end -----------------------------------------------------------------------


def losses_of(net, x, labels, num_steps):
    """Trains on one batch; returns the losses before each step."""
    graph, params = nnx.split(net, nnx.Param)
    tx = hp.auto(params, hp.trace_architecture(net, x), num_steps)

    @jax.jit
    def step(params, state):
        def loss_fn(params):
            scores = nnx.merge(graph, params)(x)
            losses = optax.softmax_cross_entropy_with_integer_labels
            return jnp.mean(losses(scores, labels))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = tx.init(params), []
    for _ in range(num_steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert_finite((params, state))
    assert not state.past_horizon
    return losses


def patterns(batch_size, *shape):
    """Noisy copies of ten patterns, and their numbers."""
    labels = np.arange(batch_size) % 10
    noise = RNG.normal(size=(batch_size, *shape))
    x = RNG.normal(size=(10, *shape))[labels] + 0.3 * noise
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels)


# The loss of a guess is log 10 = 2.3.
@pytest.mark.parametrize(
    ("depth", "width", "batch_size", "below"),
    # The last one is so narrow that its rectifiers are dead: only its bias learns.
    [
        (3, 32, 64, 0.1),
        (1, 10, 64, 0.3),
        pytest.param(8, 4, 1, 0.5, marks=pytest.mark.slow),
        (32, 4, 1, 0.9),
    ],
)
def test_it_trains_networks_of_any_depth_width_and_batch_size(
    depth, width, batch_size, below
):
    net = models.FCN(64, depth, width, 10, bias=True, rngs=nnx.Rngs(0))
    x, labels = patterns(batch_size, 64)
    losses = losses_of(net, x, labels, 40)
    assert losses[-1] < below * losses[0]


@pytest.mark.slow
def test_it_trains_a_convolutional_network():
    net = models.LeNet5(rngs=nnx.Rngs(0), in_channels=1, num_classes=10)
    x, labels = patterns(32, 28, 28, 1)
    losses = losses_of(net, x, labels, 30)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.slow
def test_it_trains_a_transformer():
    net = models.GPT(vocabulary=11, depth=2, width=32, heads=2, context=16,
                     rngs=nnx.Rngs(0))  # fmt: skip
    text = np.cumsum(RNG.integers(1, 3, size=(16, 17)), axis=1) % 11
    tokens = jnp.asarray(text, jnp.int32)
    losses = losses_of(net, tokens[:, :-1], tokens[:, 1:], 60)
    # One of two tokens comes next: log 2 = 0.69 is the least without learning by heart.
    assert losses[-1] < 0.9 < 2.3 < losses[0]


def test_paths_that_are_mostly_skips_count_as_one_layer():
    """One residual block alone: paths of depth 0 and 1, and not twice the rate."""
    params = {"kernel": jnp.ones((4, 4))}
    model = lambda params, x: x + x @ params["kernel"]
    arch = hp.trace_architecture(model, params, jnp.ones((2, 4)))
    assert arch.mean_path_depth == 0.5
    state = hp.auto(params, arch, 10).init(params)
    assert hp.get_learning_rate(state) == pytest.approx(_auto.RATE)
