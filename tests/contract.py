"""The rules of the library that every method keeps, as functions of a table row.

Each function raises if the row breaks its rule. test_all_methods.py runs every rule on
every method; test_contract.py runs each on a transformation that breaks it.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import hpfree_jax as hp
from tests.methods import Method
from tests.problems import make_params, quadratic

RULES = []


def rule(function):
    """Adds a rule: no dtype or rank is promoted silently while it runs."""

    @functools.wraps(function)
    def strict(method):
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            function(method)

    RULES.append(strict)
    return strict


def make_step(method: Method, tx, loss=quadratic):
    """Returns (params, state) -> (params, state), one step of training."""

    def step(params, state):
        grads = jax.grad(loss)(params)
        extra_args = method.extra_args(loss, params)
        updates, state = tx.update(grads, state, params, **extra_args)
        if method.is_direction:
            updates = jax.tree.map(jnp.negative, updates)
        return optax.apply_updates(params, updates), state

    return step


def run(method, tx, params, num_steps, state=None, loss=quadratic):
    """Trains for some steps from fresh or given state."""
    step = jax.jit(make_step(method, tx, loss))
    state = tx.init(params) if state is None else state
    for _ in range(num_steps):
        params, state = step(params, state)
    return params, state


def assert_same(tree, other, **tolerance):
    """Asserts equal structure, and equal (or, with rtol, close) leaves."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for leaf, other_leaf in zip(
        jax.tree.leaves(tree), jax.tree.leaves(other), strict=True
    ):
        compare(_numpy(leaf), _numpy(other_leaf), **tolerance)


def close(method: Method, rtol: float, atol: float) -> dict[str, float]:
    """Tolerances for what rounds differently, with the method's amplification."""
    factor = method.amplification
    return {"rtol": factor * rtol, "atol": factor * atol}


def assert_finite(tree):
    assert all(np.all(np.isfinite(_numpy(leaf))) for leaf in jax.tree.leaves(tree))


def _numpy(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def types(tree):
    """The type of every leaf: shape, dtype, weak type, sharding and mesh."""
    return [
        (jax.typeof(leaf), jax.typeof(leaf).sharding, leaf.weak_type)
        for leaf in jax.tree.leaves(tree)
    ]


# Rule 1: pure and traceable


@rule
def nothing_recompiles(method):
    traces = []
    tx, params = method.make(), make_params()

    def counted(params, state):
        traces.append(1)
        return make_step(method, tx)(params, state)

    step = jax.jit(counted)
    carry = (params, tx.init(params))
    for _ in range(3):
        carry = step(*carry)
    assert len(traces) == 1


@rule
def no_host_callback(method):
    tx, params = method.make(), make_params()
    jaxpr = jax.make_jaxpr(make_step(method, tx))(params, tx.init(params))
    assert "callback" not in str(jaxpr)


@rule
def scan_equals_loop(method):
    tx, params = method.make(), make_params()
    step = make_step(method, tx)
    init = (params, tx.init(params))
    scanned, _ = jax.lax.scan(lambda c, _: (step(*c), None), init, length=4)
    assert_same(scanned, run(method, tx, params, 4), **close(method, 2e-5, 1e-6))


@rule
def vmap_equals_loop(method):
    tx = method.make()
    runs = [make_params(seed=seed) for seed in range(3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    carry = (batch, jax.jit(jax.vmap(tx.init))(batch))
    step = jax.jit(jax.vmap(make_step(method, tx)))
    for _ in range(3):
        carry = step(*carry)
    for index, params in enumerate(runs):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], carry)
        assert_same(one, run(method, tx, params, 3), **close(method, 2e-5, 1e-6))


@rule
def init_is_abstract(method):
    tx, params = method.make(), make_params()
    shapes = jax.eval_shape(tx.init, params)
    state = tx.init(params)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True
    ):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
    assert_same(jax.jit(tx.init)(params), state)


@rule
def fresh_params_and_state_can_be_donated(method):
    tx, params = method.make(), make_params()
    expected = run(method, tx, params, 2)
    step = jax.jit(make_step(method, tx), donate_argnums=(0, 1))
    carry = (params, tx.init(params))
    for _ in range(2):
        carry = step(*carry)
    assert_same(carry, expected)


# Rule 2: the optax contract


@rule
def unknown_extra_args_are_accepted(method):
    tx, params = method.make(), make_params()

    @jax.jit
    def update(params, state, **unknown):
        known = method.extra_args(quadratic, params)
        grads = jax.grad(quadratic)(params)
        return tx.update(grads, state, params, **known, **unknown)[0]

    state = tx.init(params)
    assert_same(update(params, state), update(params, state, unknown_argument=1.0))


@rule
def dtypes_are_kept(method):
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            tx, params = method.make(), make_params(dtype)
            state = tx.init(params)
            new_params, new_state = run(method, tx, params, 2)
            assert dtypes(new_params) == {jnp.dtype(dtype)}
            assert types(state) == types(new_state)
            updates, _ = jax.eval_shape(
                lambda params, state, tx=tx: tx.update(
                    jax.grad(quadratic)(params),
                    state,
                    params,
                    **method.extra_args(quadratic, params),
                ),
                params,
                state,
            )
            assert dtypes(updates) == {jnp.dtype(dtype)}
            assert_finite(new_params)


@rule
def updates_have_the_dtype_of_params_and_not_of_gradients(method):
    tx, params = method.make(), make_params(jnp.float32)
    grads = optax.tree.cast(jax.grad(quadratic)(params), jnp.bfloat16)
    state = tx.init(params)
    updates, new_state = tx.update(
        grads, state, params, **method.extra_args(quadratic, params)
    )
    assert dtypes(updates) == {jnp.dtype(jnp.float32)}
    assert types(state) == types(new_state)


@rule
def sharding_is_kept_on_an_explicit_mesh(method):
    tx, params = method.make(), make_params()
    expected = run(method, tx, params, 3)
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    specs = {"kernel": P("data", "model"), "bias": P("model")}
    sharded = {
        module: {
            name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
            for name, leaf in leaves.items()
        }
        for module, leaves in params.items()
    }

    def check():
        state = tx.init(sharded)
        new_params, new_state = run(method, tx, sharded, 3)
        assert types(new_state) == types(state)
        assert types(new_params) == types(sharded)
        assert_same((new_params, new_state), expected, **close(method, 2e-5, 1e-6))

    check()
    with jax.set_mesh(mesh):
        check()


@rule
def an_automatic_mesh_changes_nothing(method):
    tx, params = method.make(), make_params()
    mesh = jax.make_mesh(
        (2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    put = lambda leaf: jax.device_put(
        leaf, NamedSharding(mesh, P(*("data", "model")[-leaf.ndim :]))
    )
    new = run(method, tx, jax.tree.map(put, params), 3)
    assert_same(new, run(method, tx, params, 3), **close(method, 2e-5, 1e-6))


@rule
def inject_hyperparams_changes_nothing(method):
    tx, params = method.make(), make_params()
    injected = optax.inject_hyperparams(method.factory)(**method.hyperparams)
    params_expected, state = run(method, tx, params, 3)
    params_found, injected_state = run(method, injected, params, 3)
    assert_same(params_found, params_expected)
    if method.has_rate:
        rates = [hp.get_learning_rate(s) for s in (state, injected_state)]
        assert rates[0] == rates[1]


@rule
def map_params_maps_params(method):
    tx, params = method.make(), make_params()
    state = tx.init(params)
    marked = optax.tree.map_params(
        tx, lambda leaf: "param", state, transform_non_params=lambda leaf: "other"
    )
    mapped = [
        leaf.shape
        for mark, leaf in zip(
            jax.tree.leaves(marked), jax.tree.leaves(state), strict=True
        )
        if mark == "param"
    ]
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert len(mapped) % len(shapes) == 0
    for shape, expected in zip(mapped, shapes * len(mapped), strict=False):
        assert shape[-len(expected) :] == expected  # batched leaves have axes before


@rule
def chains_pass_everything_through(method):
    tx, params = method.make(), make_params()
    expected, _ = run(method, tx, params, 3)
    for chained in (
        optax.chain(optax.identity(), tx),
        optax.named_chain(("first", optax.identity()), ("method", tx)),
        optax.apply_if_finite(tx, max_consecutive_errors=3),
        optax.partition({"all": tx}, jax.tree.map(lambda _: "all", params)),
    ):
        assert_same(
            run(method, chained, params, 3)[0], expected, **close(method, 1e-6, 1e-7)
        )


@rule
def freezing_equals_deleting(method):
    tx, params = method.make(), make_params()
    labels = {"fc1": "train", "fc2": "freeze"}
    frozen = optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels)
    loss = lambda params: quadratic(params["fc1"]) + quadratic(params["fc2"])
    alone = lambda params: quadratic(params["fc1"])
    deleted = {"fc1": params["fc1"], "fc2": None}
    expected, _ = run(method, tx, deleted, 3, loss=alone)
    found, _ = run(method, frozen, params, 3, loss=loss)
    assert_same(found["fc2"], params["fc2"])
    assert_same(found["fc1"], expected["fc1"], **close(method, 1e-6, 1e-7))


@rule
def none_and_integer_leaves_are_left_alone(method):
    tx, params = method.make(), make_params()
    expected, _ = run(method, tx, params, 2)
    mixed = {**params, "none": None, "table": {"kernel": jnp.arange(6).reshape(2, 3)}}
    state = tx.init(mixed)
    for _ in range(2):
        grads = {
            **jax.grad(quadratic)({name: mixed[name] for name in params}),
            "none": None,
            "table": {"kernel": np.zeros((2, 3), jax.dtypes.float0)},
        }
        extra_args = method.extra_args(
            lambda tree: quadratic({name: tree[name] for name in params}), mixed
        )
        updates, state = tx.update(grads, state, mixed, **extra_args)
        if method.is_direction:
            updates = jax.tree.map(jnp.negative, updates)
        mixed = optax.apply_updates(mixed, updates)
    assert_same(mixed["table"]["kernel"], jnp.arange(6).reshape(2, 3))
    assert mixed["none"] is None
    found = {name: mixed[name] for name in params}
    assert_same(found, expected, **close(method, 1e-6, 1e-7))


@rule
def multi_steps_uses_the_mean_gradient(method):
    tx, params = method.make(), make_params()

    def strict_update(*args, **extra_args):
        with jax.numpy_dtype_promotion("strict"):
            return tx.update(*args, **extra_args)

    strict = type(tx)(tx.init, strict_update)  # with or without extra arguments
    accumulating = optax.MultiSteps(strict, 2)
    grads = jax.grad(quadratic)(params)
    halves = [jax.tree.map(lambda g, c=c: c * g, grads) for c in (0.5, 1.5)]
    state, whole_state = accumulating.init(params), tx.init(params)
    extra_args = method.extra_args(quadratic, params)
    jitted = lambda tx: jax.jit(lambda g, s: tx.update(g, s, params, **extra_args))
    update, accumulate = jitted(tx), jitted(accumulating)
    for _ in range(2):
        for half in halves:
            with jax.numpy_dtype_promotion("standard"):  # for optax's own counter
                updates, state = accumulate(half, state)
        expected, whole_state = update(grads, whole_state)
        assert_same(updates, expected, **close(method, 1e-5, 1e-6))
    if method.has_rate:
        assert float(hp.get_learning_rate(state)) == pytest.approx(
            float(hp.get_learning_rate(whole_state)), rel=1e-5
        )


@rule
def an_empty_tree_is_a_tree(method):
    tx = method.make()
    empty = {"module": {}}
    state = tx.init(empty)
    updates, new_state = tx.update(
        empty, state, empty, **method.extra_args(quadratic, empty)
    )
    assert updates == empty
    assert types(state) == types(new_state)
    assert_finite(new_state)


# Rule 3: reductions in at least float32


@rule
def scalars_are_at_least_float32(method):
    for x64 in (False, True):
        with jax.enable_x64(x64):
            for leaf in jax.tree.leaves(method.make().init(make_params())):
                if jnp.issubdtype(leaf.dtype, jnp.integer):
                    assert leaf.dtype == jnp.int32
    for dtype in (jnp.float16, jnp.bfloat16):
        for leaf in jax.tree.leaves(method.make().init(make_params(dtype))):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                assert leaf.dtype == jnp.float32
    with jax.enable_x64(True):
        for leaf in jax.tree.leaves(method.make().init(make_params(jnp.float64))):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                assert leaf.dtype == jnp.float64


@rule
def it_converges_in_low_precision_too(method):
    for dtype in (jnp.float32, jnp.bfloat16):
        params = make_params(dtype)
        trained, _ = run(method, method.make(), params, method.num_steps)
        assert quadratic(trained) < 0.1 * quadratic(params)


# Rule 5: bad input


@rule
def zero_gradients_at_the_start_do_no_harm(method):
    tx, params = method.make(), make_params()
    minimum = jax.tree.map(jnp.zeros_like, params)
    flat = lambda tree: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))
    stayed, state = run(method, tx, minimum, 2, loss=flat)
    assert_same(stayed, minimum)
    assert_finite(state)
    moved, state = run(method, tx, params, 3, state)
    assert_finite((moved, state))
    assert quadratic(moved) < quadratic(params)


@rule
def a_non_finite_step_does_not_corrupt(method):
    tx, params = method.make(), make_params()
    params, state = run(method, tx, params, 2)
    update = jax.jit(
        lambda grads, value, state: tx.update(
            grads,
            state,
            params,
            **{**method.extra_args(quadratic, params), "value": value},
        )
    )
    grads, value = jax.grad(quadratic)(params), quadratic(params)
    for bad in (np.nan, np.inf, -np.inf):
        for module, name in (("fc1", "kernel"), ("fc2", "bias")):
            broken = jax.tree.map(lambda leaf: leaf, grads)
            broken[module][name] = broken[module][name].at[0].set(bad)
            updates, new_state = update(broken, value, state)
            assert_same(updates, jax.tree.map(jnp.zeros_like, updates))
            assert_finite(new_state)
            assert types(state) == types(new_state)
            assert_finite(update(grads, value, new_state))
        assert_finite(update(grads, jnp.full((), bad), state))


@rule
def finite_gradients_at_the_ends_of_the_range_give_finite_updates(method):
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            tx, params = method.make(), make_params(dtype)
            extra_args = method.extra_args(quadratic, params)
            update = jax.jit(
                lambda grads, state, tx=tx, params=params, extra_args=extra_args: (
                    tx.update(grads, state, params, **extra_args)
                )
            )
            for grads in extreme_gradients(jax.grad(quadratic)(params), dtype):
                state = tx.init(params)
                for _ in range(3):
                    updates, state = update(grads, state)
                    assert_finite(updates)


def extreme_gradients(grads, dtype):
    """All huge, all tiny, one module of each, and one huge entry in each leaf."""
    info = jnp.finfo(dtype)
    largest = float(info.max)
    huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, largest), grads)
    tiny = jax.tree.map(lambda leaf: jnp.full_like(leaf, float(info.tiny)), grads)
    spike = lambda leaf: leaf.ravel().at[0].set(largest).reshape(leaf.shape)
    return huge, tiny, {**huge, "fc2": tiny["fc2"]}, jax.tree.map(spike, grads)


# Rule 4: any pytree


@rule
def every_container_gives_the_same_numbers(method):
    eqx = pytest.importorskip("equinox")
    flax_core = pytest.importorskip("flax.core")
    nnx = pytest.importorskip("flax.nnx")

    class Linear(eqx.Module):
        bias: jax.Array
        kernel: jax.Array

    class Network(NamedTuple):
        fc1: Any
        fc2: Any

    params = make_params()
    fc1, fc2 = params["fc1"], params["fc2"]
    expected, _ = run(method, method.make(), params, 2)
    for tree in (
        flax_core.freeze(params),
        Network(fc1, fc2),
        Network(Linear(**fc1), Linear(**fc2)),
        nnx.State(jax.tree.map(nnx.Param, params)),
    ):
        found, _ = run(method, method.make(), tree, 2)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        assert_same(
            jax.tree.leaves(found), jax.tree.leaves(expected), **close(method, 1e-6, 0)
        )


# Rules 6 and 7: observable, resumable


@rule
def the_state_is_a_named_tuple_of_arrays(method):
    state = method.make().init(make_params())
    assert hasattr(state, "_fields")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@rule
def the_learning_rate_is_seen_through_every_wrapper(method):
    tx, params = method.make(), make_params()
    params, state = run(method, tx, params, 2)
    if not method.has_rate:
        with pytest.raises(ValueError, match="no learning rate"):
            hp.get_learning_rate(state)
        return
    expected = hp.get_learning_rate(state)
    assert expected.shape == ()
    assert np.isfinite(expected)
    assert expected > 0
    labels = {"fc1": "a", "fc2": "a"}
    for wrap in (
        lambda t: optax.chain(t, optax.identity()),
        lambda t: optax.named_chain(("a", optax.identity()), ("b", t)),
        lambda t: optax.masked(t, True),
        lambda t: optax.partition({"a": t, "b": optax.adam(0.1)}, labels),
        lambda t: optax.MultiSteps(t, 2).gradient_transformation(),
        lambda t: optax.apply_if_finite(t, 3),
        lambda t: optax.apply_if_finite(optax.chain(optax.masked(t, True)), 3),
    ):
        wrapped = wrap(tx)
        fresh = wrapped.init(params)
        assert hp.get_learning_rate(fresh) == hp.get_learning_rate(tx.init(params))
        with_state = jax.tree.map(
            lambda leaf: state if type(leaf) is type(state) else leaf,
            fresh,
            is_leaf=lambda leaf: type(leaf) is type(state),
        )
        assert hp.get_learning_rate(with_state) == expected


@rule
def the_learning_rate_is_seen_in_an_nnx_optimizer(method):
    nnx = pytest.importorskip("flax.nnx")
    if not method.has_rate:
        pytest.skip("it has no learning rate")

    class TwoLayers(nnx.Module):
        """Has the parameters of problems.make_params."""

        def __init__(self):
            rngs = nnx.Rngs(0)
            self.fc1 = nnx.Linear(8, 16, rngs=rngs)
            self.fc2 = nnx.Linear(16, 8, rngs=rngs)

    optimizer = nnx.Optimizer(TwoLayers(), method.make(), wrt=nnx.Param)
    assert hp.get_learning_rate(optimizer.opt_state).shape == ()


@rule
def a_checkpoint_continues_bit_for_bit(method):
    ocp = pytest.importorskip("orbax.checkpoint")
    tx, params = method.make(), make_params()
    expected = run(method, tx, params, 4)
    halfway = run(method, tx, params, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, halfway)
            checkpointer.wait_until_finished()
            abstract = jax.eval_shape(lambda p: (p, tx.init(p)), params)
            params, state = checkpointer.restore(path, abstract)
    assert types((params, state)) == types(halfway)
    assert_same(run(method, tx, params, 2, state), expected)


@rule
def flax_serialization_continues_bit_for_bit(method):
    serialization = pytest.importorskip("flax.serialization")
    tx, params = method.make(), make_params()
    expected = run(method, tx, params, 4)
    halfway = run(method, tx, params, 2)
    stored = serialization.to_bytes(halfway)
    params, state = serialization.from_bytes((params, tx.init(params)), stored)
    params, state = jax.tree.map(jnp.asarray, (params, state))
    assert_same(run(method, tx, params, 2, state), expected)
