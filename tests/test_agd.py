"""AGD against hand computation, float64 NumPy, reference traces and invariances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hpfree_jax as hp
from tests.reference import STORED_CASES, load_case, load_stored

# Names of the modules in the reference's nets, in the order of its parameters.
AGD_CASES = ["a_fcn_mse", "b_fcn_mse_gain10", "c_fcn_xent", "d_cnn_mse"]
AGD_CASES += ["e1_dead_branch", "e2_dead_kernel_positions"]
PRIME_CASES = ["a_mlp_bias", "b1_mlp_layernorm", "b2_mlp_batchnorm"]
PRIME_CASES += ["c_cnn_batchnorm", "c2_cnn_preact"]


def flax_leaf(name, array):
    """PyTorch's (out, in, *positions) as Flax's (*positions, in, out)."""
    module, _, kind = name.rpartition(".")
    if array.ndim > 1:
        return module, "kernel", np.moveaxis(array, (0, 1), (-1, -2))
    return module, {"weight": "scale"}.get(kind, kind), array


def flax_tree(arrays, prefix, names, step):
    """A list of modules in registration order, as a Flax model would hold them."""
    modules = {}
    for name in names:
        module, kind, array = flax_leaf(name, arrays[f"{prefix}.{name}"][step])
        modules.setdefault(module, {})[kind] = jnp.asarray(array)
    return list(modules.values())


def replay(settings, arrays):
    """Yields (params, expected params, state, step) along a recorded run."""
    names = settings["param_order"]
    tx = hp.agd(settings.get("gain", 1.0))
    params = flax_tree(arrays, "param", names, 0)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(len(arrays["eta"])):
        grads = flax_tree(arrays, "grad", names, step)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        yield params, flax_tree(arrays, "param", names, step + 1), state, step


def check_replay(settings, arrays):
    with jax.enable_x64(True):
        for params, expected, state, step in replay(settings, arrays):
            np.testing.assert_allclose(state.learning_rate, arrays["eta"][step], 1e-10)
            np.testing.assert_allclose(state.gradient_summary, arrays["G"][step], 1e-10)
            for leaf, other in zip(
                jax.tree.leaves(params), jax.tree.leaves(expected), strict=True
            ):
                # atol: biases before a batch norm have gradients of rounding noise
                np.testing.assert_allclose(leaf, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("method", "name"),
    [("agd", name) for name in AGD_CASES] + [("agd_prime", n) for n in PRIME_CASES],
)
def test_reference_trace_is_followed_to_1e_10(method, name):
    check_replay(*load_case(method, name))


@pytest.mark.parametrize(("method", "name"), STORED_CASES)
def test_stored_trace_is_followed_to_1e_10(method, name):
    check_replay(*load_stored(method, name))


def transformer_layout(table):
    """The experimental code's scales for a GPT, as a layout."""
    rules = {}
    for name, row in table.items():
        if row["group"] is None:
            rules[name] = None  # LayerNorms are not trained there
        elif len(row["shape"]) == 1:
            rules[name] = hp.Vector(leader=name.replace("bias", "weight"))
        else:
            fan_out, fan_in = row["shape"]
            divisor = fan_out / fan_in / row["scale_init_and_G"] ** 2
            rules[name] = hp.Matrix(1, 0, (), (), divisor, row["depth_count"])
    return hp.Layout(rules)


def test_transformer_traces_with_depth_counts_and_scale_divisors():
    settings, arrays = load_case("agd_prime", "d_transformer_scales")
    table = settings["table"]
    layout = transformer_layout(table)
    assert layout["transformer.h.0.attn.c_attn.weight"].scale_divisor == pytest.approx(
        3
    )
    assert layout["transformer.h.0.mlp.c_proj.weight"].scale_divisor == pytest.approx(2)
    divisors = {
        name: layout[getattr(rule, "leader", name)].scale_divisor
        for name, rule in layout.items()
        if rule is not None
    }
    with jax.enable_x64(True):
        gain = settings["gain"]
        tx = hp.agd(gain, layout)
        params = {name: jnp.asarray(arrays[f"param.{name}"][0]) for name in table}
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(3):
            grads = {name: jnp.asarray(arrays[f"grad.{name}"][step]) for name in table}
            updates, state = update(grads, state, params)
            np.testing.assert_allclose(
                gain * state.learning_rate, arrays["eta_times_gain"][step], 1e-10
            )
            for name in table:
                before, after = arrays[f"param.{name}"][step : step + 2]
                # Deviation: the reference forgets the divisor in its update.
                ours = updates[name] * math.sqrt(divisors.get(name, 1))
                np.testing.assert_allclose(ours, after - before, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("positions", [(), (3,), (3, 2), (2, 3, 2)])
def test_one_step_of_any_kernel_matches_numpy(positions):
    generator = np.random.default_rng(0)
    grad = generator.normal(size=(*positions, 4, 6))
    bias = generator.normal(size=6)
    num_positions = math.prod(positions)
    scale = math.sqrt(6 / 4) / math.sqrt(num_positions)
    norms = [np.linalg.norm(m) for m in grad.reshape(-1, 4, 6)]
    summary = scale * sum(norms)  # one layer: L = 1
    eta = math.log((1 + math.sqrt(1 + 4 * summary)) / 2)
    expected = [
        -2 * eta * scale * m / norm
        for m, norm in zip(grad.reshape(-1, 4, 6), norms, strict=True)
    ]
    with jax.enable_x64(True):
        grads = {"conv": {"kernel": jnp.asarray(grad), "bias": jnp.asarray(bias)}}
        tx = hp.agd(gain=2.0)
        updates, state = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(state.gradient_summary, summary, rtol=1e-13)
    np.testing.assert_allclose(state.learning_rate, eta, rtol=1e-13)
    np.testing.assert_allclose(
        updates["conv"]["kernel"].reshape(-1, 4, 6), expected, rtol=1e-12
    )
    np.testing.assert_allclose(
        updates["conv"]["bias"],
        -2 * eta * scale * bias / np.linalg.norm(grad),
        rtol=1e-12,
    )


def test_depth_counts_and_divisors_match_a_hand_computation():
    # s = sqrt(8 / (3 * 2)); L = 3 + 1; norms 2 and 5 of the two gradients
    layout = hp.Layout(
        {
            "qkv": hp.Matrix(0, 1, scale_divisor=3, depth_count=3),
            "out": hp.Matrix(0, 1),
            "shift": hp.Vector(leader="qkv"),
        }
    )
    grads = {
        "qkv": jnp.zeros((2, 8)).at[1, 3].set(2.0),
        "out": jnp.zeros((4, 4)).at[0, 0].set(-5.0),
        "shift": jnp.full(8, 0.5),
    }
    tx = hp.scale_by_agd(layout=layout)
    updates, state = tx.update(grads, tx.init(grads), grads)
    scale = math.sqrt(8 / 6)
    summary = (scale * 2 + 1 * 5) / 4
    eta = math.log((1 + math.sqrt(1 + 4 * summary)) / 2)
    np.testing.assert_allclose(state.gradient_summary, summary, rtol=1e-6)
    np.testing.assert_allclose(updates["qkv"][1, 3], eta / 4 * scale, rtol=1e-6)
    np.testing.assert_allclose(updates["out"][0, 0], -eta / 4, rtol=1e-6)
    np.testing.assert_allclose(updates["shift"], eta / 4 * scale * 0.25, rtol=1e-6)


def test_attention_kernels_equal_their_matrices():
    # (in, heads, head_dim) and (heads, head_dim, out) by hand-written layouts
    generator = np.random.default_rng(0)
    grads = {
        "query": jnp.asarray(generator.normal(size=(6, 2, 4)), jnp.float32),
        "out": jnp.asarray(generator.normal(size=(2, 4, 6)), jnp.float32),
    }
    layout = hp.Layout({"query": hp.Matrix(0, (1, 2)), "out": hp.Matrix((0, 1), 2)})
    flat = {"query": grads["query"].reshape(6, 8), "out": grads["out"].reshape(8, 6)}
    tx, flat_tx = hp.agd(layout=layout), hp.agd()
    updates, state = jax.jit(tx.update)(grads, tx.init(grads))
    flat_updates, flat_state = jax.jit(flat_tx.update)(flat, flat_tx.init(flat))
    np.testing.assert_allclose(state.learning_rate, flat_state.learning_rate, 1e-6)
    for name in grads:
        np.testing.assert_allclose(
            updates[name].reshape(flat_updates[name].shape), flat_updates[name], 1e-6
        )


@pytest.mark.parametrize("stack_axis", [0, 1])
def test_stacked_layers_equal_separate_layers(stack_axis):
    generator = np.random.default_rng(0)
    layers = [
        {
            "kernel": jnp.asarray(generator.normal(size=(4, 5)), jnp.float32),
            "bias": jnp.asarray(generator.normal(size=5), jnp.float32),
        }
        for _ in range(3)
    ]
    stack = lambda *leaves: jnp.stack(leaves, min(stack_axis, leaves[0].ndim))
    stacked = jax.tree.map(stack, *layers)
    axes = [axis for axis in range(3) if axis != stack_axis]
    layout = hp.Layout(
        {
            "kernel": hp.Matrix(axes[0], axes[1], stack_axes=stack_axis),
            "bias": hp.Vector(leader="kernel", stack_axes=stack_axis),
        }
    )
    tx, separate = hp.agd(layout=layout), hp.agd()
    updates, state = jax.jit(tx.update)(stacked, tx.init(stacked))
    expected, expected_state = jax.jit(separate.update)(layers, separate.init(layers))
    np.testing.assert_allclose(
        state.gradient_summary, expected_state.gradient_summary, rtol=1e-6
    )
    for found, other in zip(
        jax.tree.leaves(updates),
        jax.tree.leaves(jax.tree.map(stack, *expected)),
        strict=True,
    ):
        np.testing.assert_allclose(found, other, rtol=2e-6)


def test_tied_leaders_may_have_any_number_of_vectors_and_none_counts():
    matrix = {"dense": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    more = [
        matrix,
        {"scale": jnp.ones(3)},
        {"bias": jnp.ones(3), "gamma": jnp.ones(())},
    ]
    tx = hp.agd()
    _, state = tx.update([matrix], tx.init([matrix]))
    _, other = tx.update(more, tx.init(more))
    assert state.gradient_summary == other.gradient_summary


def test_rescaled_gradients_change_the_rate_and_not_the_direction():
    grads = {"kernel": jax.random.normal(jax.random.key(0), (4, 5))}
    tx = hp.agd()
    updates, state = tx.update(grads, tx.init(grads))
    large = jax.tree.map(lambda g: 1000 * g, grads)
    large_updates, large_state = tx.update(large, tx.init(large))
    np.testing.assert_allclose(
        large_state.gradient_summary, 1000 * state.gradient_summary, rtol=1e-5
    )
    assert large_state.learning_rate > state.learning_rate
    np.testing.assert_allclose(
        large_updates["kernel"] / large_state.learning_rate,
        updates["kernel"] / state.learning_rate,
        rtol=1e-5,
    )


def test_a_tiny_gradient_does_not_round_to_no_step():
    # eta = G - G^2 / 2 + ... ; the printed formula gives exactly 0 in float32
    grads = {"kernel": jnp.full((1, 1), 1e-9)}
    tx = hp.agd()
    _, state = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(state.learning_rate, 1e-9, rtol=1e-5)


def test_low_precision_gradients_are_summed_in_float32():
    grads = {"kernel": jnp.ones((128, 128), jnp.bfloat16)}  # ||g|| = 128
    tx = hp.agd()
    _, state = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(state.gradient_summary, 128, rtol=1e-6)
    huge = {"kernel": jnp.full((8, 8), 60000, jnp.float16)}  # squares overflow float16
    _, state = tx.update(huge, tx.init(huge), huge)
    np.testing.assert_allclose(state.gradient_summary, 8 * 60000, rtol=1e-3)


def test_zero_positions_and_zero_layers_stay_put():
    grads = {
        "a": {"kernel": jnp.zeros((2, 3, 4)).at[0].set(1.0), "bias": jnp.ones(4)},
        "b": {"kernel": jnp.zeros((4, 2)), "bias": jnp.ones(2)},
    }
    tx = hp.agd()
    updates, state = tx.update(grads, tx.init(grads))
    assert np.all(updates["a"]["kernel"][0] < 0)
    assert np.all(updates["a"]["bias"] < 0)
    assert np.all(updates["a"]["kernel"][1] == 0)
    assert np.all(updates["b"]["kernel"] == 0)
    assert np.all(updates["b"]["bias"] == 0)
    # L = 2 still counts the dead layer: G = sqrt(4 / 3) / sqrt(2) * sqrt(12) / 2
    np.testing.assert_allclose(state.gradient_summary, math.sqrt(2), rtol=1e-6)


def test_a_leaf_without_a_rule_never_moves_and_never_counts():
    grads = {"kernel": jnp.ones((2, 2)), "wild": jnp.full((5, 5), 1e6)}
    layout = hp.Layout({"kernel": hp.Matrix(0, 1), "wild": None})
    for momentum in (0.0, 0.9):
        tx = hp.agd(layout=layout, momentum=momentum)
        updates, state = tx.update(grads, tx.init(grads))
        np.testing.assert_allclose(state.gradient_summary, 2, rtol=1e-6)
        assert np.all(updates["wild"] == 0)


def test_the_compiled_update_grows_linearly_with_the_leaves():
    # XLA copies cheap scalar arithmetic into each of its users. The check for finite
    # gradients, a chain over all leaves, once went into each leaf's update: 222
    # lines a leaf here (65 now), and minutes to compile 300 leaves.
    num_leaves = 80
    params = [{"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}] * (num_leaves // 2)
    tx = hp.agd()
    compiled = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
    assert compiled.as_text().count("\n") < 100 * num_leaves


def test_momentum_is_the_bias_corrected_mean_of_directions():
    generator = np.random.default_rng(0)
    sequence = generator.normal(size=(4, 3, 3))
    average, decay = np.zeros((3, 3)), 0.75
    with jax.enable_x64(True):
        tx = hp.agd(momentum=decay)
        state = tx.init({"kernel": jnp.zeros((3, 3))})
        for step, grad in enumerate(sequence, start=1):
            updates, state = tx.update({"kernel": jnp.asarray(grad)}, state)
            average = decay * average + (1 - decay) * grad / np.linalg.norm(grad)
            expected = -state.learning_rate * average / (1 - decay**step)
            np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-12)


def test_without_momentum_there_is_no_memory():
    params = {"kernel": jnp.ones((100, 100))}
    assert sum(leaf.size for leaf in jax.tree.leaves(hp.agd().init(params))) == 3


def test_momentum_is_not_touched_by_a_skipped_step():
    grads = {"kernel": jnp.ones((2, 2))}
    tx = hp.agd(momentum=0.9)
    _, state = tx.update(grads, tx.init(grads))
    _, skipped = tx.update({"kernel": jnp.full((2, 2), jnp.nan)}, state)
    for leaf, other in zip(
        jax.tree.leaves(state), jax.tree.leaves(skipped), strict=True
    ):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("tangent", [0.0, 1.0])
def test_derivatives_are_finite_where_gradients_are_zero(momentum, tangent):
    # Hypergradients differentiate the update, norms and quotients included.
    grads = {"a": jnp.zeros((2, 3, 3)).at[0].set(1.0), "b": jnp.zeros((3, 3))}
    layout = hp.Layout({"a": hp.Matrix(1, 2, 0), "b": hp.Matrix(0, 1)})
    tx = hp.agd(layout=layout, momentum=momentum)
    state = tx.init(grads)
    tangents = jax.tree.map(lambda g: jnp.full_like(g, tangent), grads)
    update = lambda grads: optax.tree.cast(tx.update(grads, state), float)
    derivative = jax.jit(lambda g, t: jax.jvp(update, (g,), (t,))[1])(grads, tangents)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(derivative))


MESH_LAYOUT = hp.Layout(
    {
        "stack": hp.Matrix(1, 2, stack_axes=0),
        "bias": hp.Vector(leader="stack", stack_axes=0),
        "still": None,
    }
)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_unmoved_and_stacked_leaves_keep_their_types_on_an_explicit_mesh(momentum):
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    spec = jax.sharding.PartitionSpec
    put = lambda x, *axes: jax.device_put(x, jax.NamedSharding(mesh, spec(*axes)))
    generator = np.random.default_rng(0)
    plain = {
        "stack": jnp.asarray(generator.normal(size=(4, 4, 8)), jnp.float32),
        "bias": jnp.asarray(generator.normal(size=(4, 8)), jnp.float32),
        "still": jnp.ones((4, 4)),
    }
    tx = hp.agd(layout=MESH_LAYOUT, momentum=momentum)
    expected, _ = tx.update(plain, tx.init(plain), plain)
    for bias_axes in ((None, None), ("b", None), ("b", "a")):
        params = {
            "stack": put(plain["stack"], "b", None, "a"),
            "bias": put(plain["bias"], *bias_axes),
            "still": put(plain["still"], "a", "b"),
        }
        state = tx.init(params)
        updates, new_state = tx.update(params, state, params)
        kinds = lambda tree: [
            (jax.typeof(x), jax.typeof(x).sharding) for x in jax.tree.leaves(tree)
        ]
        assert kinds(updates) == kinds(params)
        assert kinds(new_state) == kinds(state)
        for name, update in updates.items():
            np.testing.assert_allclose(update, expected[name], rtol=1e-5)


def test_shardings_can_be_mapped_onto_the_momentum():
    params = {"kernel": jnp.ones((2, 2)), "steps": jnp.arange(3)}
    tx = hp.agd(momentum=0.5)
    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda leaf, p: leaf + p, state, params)
    np.testing.assert_array_equal(mapped.momentum["steps"], [0, 1, 2])


def test_complex_weights_keep_their_phase():
    grads = {"kernel": jnp.array([[3.0 + 4.0j]])}
    tx = hp.agd(momentum=0.5)
    state = tx.init(grads)
    updates, new_state = tx.update(grads, state, grads)
    np.testing.assert_allclose(new_state.gradient_summary, 5, rtol=1e-6)
    np.testing.assert_allclose(
        updates["kernel"] / new_state.learning_rate, [[-0.6 - 0.8j]], rtol=1e-6
    )
    assert new_state.momentum["kernel"].dtype == state.momentum["kernel"].dtype


def test_depth_counts_that_add_up_to_nothing_are_refused():
    tx = hp.agd(layout=hp.Layout({"kernel": hp.Matrix(0, 1, depth_count=0)}))
    params = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="depth counts of `kernel` add up to 0"):
        tx.update(params, tx.init(params))


def test_data_parallel_shard_map_equals_jit():
    # The gradients are averaged over the mesh before update: every shard sees the norm
    # of the whole.
    mesh = jax.make_mesh((8,), ("batch",))
    batch = jax.random.normal(jax.random.key(0), (16, 4))
    params = {"kernel": jax.random.normal(jax.random.key(1), (4, 3))}
    tx = hp.agd()
    loss = lambda params, batch: jnp.mean(jnp.square(batch @ params["kernel"]))

    def step(params, state, batch):
        grads = jax.grad(loss)(jax.lax.pcast(params, "batch", to="varying"), batch)
        grads = jax.lax.pmean(grads, "batch")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    spec = jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(spec(), spec(), spec("batch")), out_specs=spec()
    )
    shards = jax.device_put(batch, jax.NamedSharding(mesh, spec("batch")))
    found, _ = jax.jit(sharded)(params, tx.init(params), shards)
    updates, _ = tx.update(jax.grad(loss)(params, batch), tx.init(params), params)
    np.testing.assert_allclose(
        found["kernel"], params["kernel"] + updates["kernel"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"gain": 0.0}, ValueError, r"`gain` must lie in \(0, inf\), got 0.0"),
        ({"gain": math.nan}, ValueError, "`gain` must lie in"),
        ({"gain": np.array(-1.0)}, ValueError, "`gain` must lie in"),
        ({"gain": jnp.ones(2)}, TypeError, "`gain` must be a number"),
        ({"gain": "auto"}, TypeError, "`gain` must be a number"),
        ({"gain": lambda step: 1.0}, TypeError, "wrap the factory in optax.inject"),
        ({"momentum": 1.0}, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ({"momentum": -0.5}, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ({"norm": "nuclear"}, ValueError, "`norm` must be one of"),
        ({"layout": {"kernel": None}}, TypeError, "`layout` must be a Layout or None"),
    ],
)
def test_bad_arguments_fail_in_the_factory(arguments, error, message):
    for factory in (hp.agd, hp.scale_by_agd):
        with pytest.raises(error, match=message):
            factory(**arguments)


def test_ambiguous_leaves_and_wrong_layouts_fail_in_init():
    with pytest.raises(ValueError, match="`query/kernel` of shape"):
        hp.agd().init({"query": {"kernel": jnp.ones((4, 2, 2))}})
    layout = hp.Layout({"kernel": hp.Matrix(0, 1)})
    with pytest.raises(ValueError, match="no rule for the parameter `weight`"):
        hp.agd(layout=layout).init({"kernel": jnp.ones((2, 2)), "weight": jnp.ones(2)})
