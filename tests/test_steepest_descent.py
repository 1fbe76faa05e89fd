"""Directions of steepest descent against singular value decompositions in float64."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import hpfree_jax as hp
from hpfree_jax.descent._orthogonalize import num_multiplications
from tests.contract import assert_same, types

RNG = np.random.default_rng(0)
LAYOUT = hp.Layout(
    {
        "dense": hp.Matrix(0, 1, scale_divisor=2),
        "bias": hp.Vector("dense"),
        "conv": hp.Matrix(2, 3, position_axes=(0, 1)),
        "query": hp.Matrix(0, (1, 2)),
        "stack": hp.Matrix(1, 2, stack_axes=0),
        "gamma": hp.Vector("stack", stack_axes=0),
        "flipped": hp.Matrix(1, 0),
        "table": hp.Matrix(0, 1),
        "columns": hp.Matrix(1, 0),
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
    "table": (7, 3),
    "columns": (3, 7),
    "frozen": (2,),
}
TABLES = ("table", "columns")


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def make_grads():
    return {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}


def factor(matrix, rank=None):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] @ right[:rank]


def unit(grad, axis=None):
    return grad / np.sqrt(np.mean(grad**2, axis=axis, keepdims=True))


def expected_directions(g, rank=None):
    """By hand: sqrt(fan-out / (divisor fan-in positions)) times the factor."""
    leading = functools.partial(factor, rank=rank)
    return {
        "dense": math.sqrt(4 / (2 * 6)) * leading(g["dense"]),
        "bias": unit(g["bias"]),
        "conv": math.sqrt(5 / (2 * 6))
        * leading(g["conv"].reshape(12, 5)).reshape(3, 2, 2, 5),
        "query": math.sqrt(6 / 8) * leading(g["query"].reshape(8, 6)).reshape(8, 2, 3),
        "stack": math.sqrt(6 / 4)
        * np.stack([leading(matrix) for matrix in g["stack"]]),
        "gamma": unit(g["gamma"], axis=1),
        "flipped": math.sqrt(5 / 6) * leading(g["flipped"]),
        "table": unit(g["table"], axis=1),
        "columns": unit(g["columns"], axis=0),
        "frozen": np.zeros(2),
    }


def assert_close(updates, expected, atol):
    assert updates.keys() == expected.keys()
    for name, direction in expected.items():
        np.testing.assert_allclose(
            updates[name], direction, rtol=0, atol=atol, err_msg=name
        )


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.75, False), (0.75, True)]
)
def test_directions_are_those_of_the_singular_value_decomposition(momentum, nesterov):
    averages = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    average = lambda old, new: momentum * old + (1 - momentum) * new
    with jax.enable_x64(True):
        tx = hp.scale_by_steepest_descent(
            LAYOUT, tables=TABLES, momentum=momentum, nesterov=nesterov
        )
        state, update = tx.init(make_grads()), jax.jit(tx.update)
        for _ in range(3):
            grads = make_grads()
            updates, state = update(grads, state)
            averages = {n: average(averages[n], grads[n]) for n in grads}
            newest = averages
            if nesterov:
                newest = {n: average(averages[n], grads[n]) for n in grads}
            assert_close(updates, expected_directions(newest), atol=1e-8)


def test_zero_gradients_rows_and_slices_stay_put():
    grads = make_grads()
    for name in ("dense", "bias"):
        grads[name] = np.zeros_like(grads[name])
    for name in ("stack", "gamma", "table"):
        grads[name][1] = 0
    tx = hp.scale_by_steepest_descent(LAYOUT, tables=TABLES)
    updates, _ = run(tx, optax.tree.cast(grads, jnp.float32), 1)
    for name in ("dense", "bias"):
        assert not np.any(updates[name])
    for name in ("stack", "gamma", "table"):
        assert not np.any(updates[name][1])
        assert np.all(np.any(updates[name][np.array([0, 2])], axis=-1))


@pytest.mark.parametrize("scale", [1e-20, 1e18])
def test_the_scale_of_the_loss_does_not_matter(scale):
    steps = [optax.tree.cast(make_grads(), jnp.float32) for _ in range(3)]
    tx = hp.scale_by_steepest_descent(
        LAYOUT, tables=TABLES, ranks={"conv": 2}, momentum=0.5, nesterov=True
    )
    update = jax.jit(tx.update)
    state, scaled_state = tx.init(steps[0]), tx.init(steps[0])
    for grads in steps:
        updates, state = update(grads, state)
        scaled = jax.tree.map(lambda g: g * jnp.float32(scale), grads)
        others, scaled_state = update(scaled, scaled_state)
        # Each call amplifies rounding by the largest singular value over the smallest.
        assert_close(others, updates, atol=1e-4)


# --- leading directions ---------------------------------------------------------------

MATRICES = ("dense", "conv", "query", "stack", "flipped")
RANKED = hp.Layout({name: LAYOUT[name] for name in MATRICES})


def with_gap(name, rank, seed=0):
    """A gradient, each matrix of which has its singular values apart after `rank`."""
    rule, shape = RANKED[name], SHAPES[name]
    d_in, d_out, positions = rule.fans(shape)
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(rule.num_slices(shape)):
        matrix = rng.normal(size=(d_in * positions, d_out))
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        values = np.where(np.arange(len(values)) < rank, 3.0, 0.3) + 0.01 * values
        result.append((left * values) @ right)
    result = np.stack(result) if rule.stack_axes else result[0]
    return (result.T if name == "flipped" else result).reshape(shape)


def run(tx, grads, num_calls, state=None):
    update = jax.jit(tx.update)
    state = tx.init(grads) if state is None else state
    updates = None
    for _ in range(num_calls):
        updates, state = update(grads, state)
    return updates, state


def test_bases_follow_the_leading_directions():
    """Subspace iteration: the error falls by (0.3 / 3)^2 a call, or so."""
    rank = 2

    def expected(grads):
        found = expected_directions(make_grads() | grads, rank)
        return {name: found[name] for name in MATRICES}

    with jax.enable_x64(True):
        tx = hp.scale_by_steepest_descent(RANKED, ranks=dict.fromkeys(MATRICES, rank))
        grads = {name: with_gap(name, rank) for name in MATRICES}
        updates, state = run(tx, grads, 10)
        assert_close(updates, expected(grads), atol=1e-7)
        # The memory is what makes it exact: the first call is not.
        first, _ = run(tx, grads, 1)
        assert np.max(np.abs(first["conv"] - updates["conv"])) > 1e-3
        # The old basis is no trap for other gradients.
        others = {name: with_gap(name, rank, seed=1) for name in MATRICES}
        updates, _ = run(tx, others, 14, state)
        assert_close(updates, expected(others), atol=1e-7)


def test_bases_come_back_after_zeros_and_matrices_of_lower_rank():
    rank = 2
    with jax.enable_x64(True):
        tx = hp.scale_by_steepest_descent(RANKED, ranks=dict.fromkeys(MATRICES, rank))
        grads = {name: with_gap(name, rank) for name in MATRICES}
        expected, state = run(tx, grads, 10)
        zeros = jax.tree.map(np.zeros_like, grads)
        updates, state = run(tx, zeros, 3, state)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
        ones = jax.tree.map(np.ones_like, grads)  # of rank 1
        updates, state = run(tx, ones, 3, state)
        scale = math.sqrt(4 / (2 * 6) / (6 * 4))  # s_k u v^T, constant
        np.testing.assert_allclose(updates["dense"], scale, rtol=0, atol=1e-7)
        updates, state = run(tx, grads, 14, state)
        assert_close(updates, expected, atol=1e-7)


def test_a_rank_that_leaves_nothing_out_is_none():
    grads = optax.tree.cast(make_grads(), jnp.float32)
    make = functools.partial(hp.scale_by_steepest_descent, LAYOUT, tables=TABLES)
    full, _ = run(make(), grads, 1)
    updates, state = run(make(ranks={"dense": 4, "conv": 5, "stack": 100}), grads, 1)
    assert_same(updates, full)
    assert state.bases.size == 1  # nothing is remembered
    # Of others the basis is as small as it can be: the smaller side by the rank.
    state = make(ranks={"conv": 2, "stack": 3}).init(grads)
    assert state.bases.size == 5 * 2 + 3 * (4 * 3)


def test_complex_matrices_have_no_rank():
    grads = {"w": jnp.asarray(RNG.normal(size=(4, 5)) + 1j * RNG.normal(size=(4, 5)))}
    layout = hp.Layout({"w": hp.Matrix(0, 1)})
    full, _ = run(hp.scale_by_steepest_descent(layout), grads, 1)
    updates, _ = run(hp.scale_by_steepest_descent(layout, ranks={"w": 2}), grads, 1)
    assert_same(updates, full)


def test_leading_directions_take_a_fraction_of_the_multiplications():
    def flops(ranks):
        grads = {"kernel": jnp.ones((256, 256))}
        tx = hp.scale_by_steepest_descent(ranks=ranks)
        compiled = jax.jit(tx.update).lower(grads, tx.init(grads)).compile()
        return compiled.cost_analysis()["flops"]

    full = flops({})
    assert full == pytest.approx(2 * num_multiplications(256, 256), rel=0.1)
    assert flops({"kernel": 32}) < 0.15 * full


# --- bad input, wrappers, meshes ------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ({"momentum": math.nan}, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ({"layout": {"w": None}}, TypeError, "`layout` must be a Layout or None"),
        ({"ranks": {"w": 0}}, ValueError, r"`ranks\['w'\]` must lie in \[1, inf\)"),
        ({"ranks": {"w": 1.5}}, TypeError, r"`ranks\['w'\]` must be a whole number"),
        ({"ranks": {"w": True}}, TypeError, r"`ranks\['w'\]` must be a number"),
    ],
)
def test_bad_arguments_fail_in_the_factory(arguments, error, message):
    with pytest.raises(error, match=message):
        hp.scale_by_steepest_descent(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tables": ["tabel"]},
            "`tables` names `tabel`, which is no matrix of the layout .did you mean "
            "`table`",
        ),
        ({"ranks": {"bias": 2}}, "`ranks` names `bias`, which is no matrix"),
        ({"ranks": {"frozen": 2}}, "`ranks` names `frozen`, which is no matrix"),
    ],
)
def test_names_of_no_matrix_fail_in_init_and_in_update(arguments, message):
    grads = make_grads()
    tx = hp.scale_by_steepest_descent(LAYOUT, **arguments)
    with pytest.raises(ValueError, match=message):
        tx.init(grads)
    state = hp.scale_by_steepest_descent(LAYOUT).init(grads)
    with pytest.raises(ValueError, match=message):
        tx.update(grads, state)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["conv", "gamma", "table"])
def test_a_non_finite_gradient_leaves_the_state(name, bad):
    grads = optax.tree.cast(make_grads(), jnp.float32)
    tx = hp.scale_by_steepest_descent(
        LAYOUT, tables=TABLES, ranks={"conv": 2}, momentum=0.5
    )
    _, state = run(tx, grads, 2)
    broken = {**grads, name: jnp.asarray(grads[name]).at[1, 0].set(bad)}
    updates, same = run(tx, broken, 1, state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    assert_same(same, state)


def test_momentum_follows_a_schedule_under_inject_hyperparams():
    make = functools.partial(hp.scale_by_steepest_descent, LAYOUT, tables=TABLES)
    schedule = optax.piecewise_constant_schedule(0.25, {1: 3.0})  # 0.25, 0.75, ...
    averages = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    with jax.enable_x64(True):
        tx = optax.inject_hyperparams(make)(momentum=schedule)
        state, update = tx.init(make_grads()), jax.jit(tx.update)
        for momentum in (0.25, 0.75):
            grads = make_grads()
            updates, state = update(grads, state)
            averages = {
                name: momentum * averages[name] + (1 - momentum) * grads[name]
                for name in grads
            }
            assert_close(updates, expected_directions(averages), atol=1e-8)


@pytest.mark.parametrize(
    "frozen",
    ["stack", *(pytest.param(n, marks=pytest.mark.slow) for n in ("table", "dense"))],
)
def test_masked_leaves_change_nothing_for_the_others(frozen):
    """Also where they lead a vector, have a rank, or are a table."""
    grads = optax.tree.cast(make_grads(), jnp.float32)
    tx = hp.scale_by_steepest_descent(
        LAYOUT, tables=TABLES, ranks={"stack": 2, "conv": 5}, momentum=0.5
    )
    masked = optax.masked(tx, {name: name != frozen for name in grads})
    updates, state = run(masked, grads, 2)
    expected, whole = run(tx, grads, 2)
    assert_close(updates, {**expected, frozen: grads[frozen]}, atol=1e-6)
    assert isinstance(state.inner_state.momentum[frozen], optax.MaskedNode)
    bases = 1 if frozen == "stack" else whole.bases.size
    assert state.inner_state.bases.size == bases
    deleted, _ = run(tx, {**grads, frozen: None}, 2)
    assert_same(deleted, {**updates, frozen: None})


def test_names_may_be_masked_where_the_layout_is_inferred():
    params = {"a": {"embedding": jnp.ones((4, 5))}, "b": {"kernel": jnp.ones((4, 5))}}
    tx = hp.scale_by_steepest_descent(
        tables=["a/embedding"], ranks={"b/kernel": 2}, momentum=0.5
    )
    for name in params:
        masked = optax.masked(tx, {other: other == name for other in params})
        updates, _ = run(masked, params, 1)
        np.testing.assert_array_equal(np.sign(jax.tree.leaves(updates[name])[0]), 1)


@pytest.mark.parametrize(
    "axes",
    [
        {"stack": ("b", None, "a"), "gamma": ("b", "a"),
         "conv": (None, None, "a", "b"), "table": ("a", "b")},
        pytest.param(
            {"stack": (None, None, "b"), "gamma": (None, "a"),
             "conv": (None, None, None, "b"), "table": (None, "b")},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two axes", "one axis"],
)  # fmt: skip
def test_bases_and_stacks_keep_their_types_on_an_explicit_mesh(axes):
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    shapes = {
        "stack": (4, 4, 8), "gamma": (4, 8), "conv": (3, 2, 2, 8), "table": (8, 4),
    }  # fmt: skip
    layout = hp.Layout({name: LAYOUT[name] for name in shapes})
    plain = {n: jnp.asarray(RNG.normal(size=s), jnp.float32) for n, s in shapes.items()}
    tx = hp.scale_by_steepest_descent(
        layout, tables=["table"], ranks={"stack": 2, "conv": 3}, momentum=0.5
    )
    expected = run(tx, plain, 3)
    grads = {
        name: jax.device_put(
            leaf, jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes[name]))
        )
        for name, leaf in plain.items()
    }
    for context in (contextlib.nullcontext, functools.partial(jax.set_mesh, mesh)):
        with context():
            state = tx.init(grads)
            updates, new_state = run(tx, grads, 3, state)
        assert types(updates) == types(grads)
        assert types(new_state) == types(state)
        assert_same((updates, new_state), expected, rtol=0, atol=1e-4)


def test_shardings_can_be_mapped_onto_the_momentum_and_not_the_bases():
    params = {"kernel": jnp.ones((3, 4)), "steps": jnp.arange(3)}
    tx = hp.scale_by_steepest_descent(ranks={"kernel": 2}, momentum=0.5)
    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda leaf, p: leaf + p, state, params)
    np.testing.assert_array_equal(mapped.momentum["kernel"], params["kernel"])
    np.testing.assert_array_equal(mapped.momentum["steps"], [0, 1, 2])
    np.testing.assert_array_equal(mapped.bases, state.bases)


def test_a_checkpoint_holds_the_bases(tmp_path):
    layout = hp.Layout({name: LAYOUT[name] for name in ("conv", "table")})
    grads = optax.tree.cast(make_grads(), jnp.float32)
    grads = {name: grads[name] for name in layout}
    tx = hp.scale_by_steepest_descent(layout, ranks={"conv": 2}, momentum=0.5)
    _, state = run(tx, grads, 2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        stored = checkpointer.restore(
            tmp_path / "state", jax.eval_shape(tx.init, grads)
        )
    assert_same(stored, state)
    assert_same(run(tx, grads, 2, stored), run(tx, grads, 2, state))
