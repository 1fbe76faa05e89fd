"""Graphs drawn by hand, as expressions, against what the tracer reads."""

import functools

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

import hpfree_jax as hp
from tests.architecture.drawing import draw, layers, leaders, shape

relu = jax.nn.relu
trace = hp.trace_architecture


def normalise(x, axis=-1):
    mean = jnp.mean(x, axis, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5)


def square(names, size=4):
    return {name: shape(size, size) for name in names}


x4 = shape(2, 4)


def test_mlp():
    def mlp(p, x):
        x = relu(x @ p["a"] + p["a_bias"])
        return jax.nn.log_softmax(x @ p["b"] + p["b_bias"])

    params = {"a": shape(4, 8), "a_bias": shape(8), "b": shape(8, 3)}
    arch = trace(mlp, params | {"b_bias": shape(3)}, x4)
    assert draw(arch) == "b(a(x))"
    assert layers(arch, "kind", "fan_in", "fan_out", "in_axes", "out_axes") == {
        "a": ("dense", 4, 8, (0,), (1,)),
        "b": ("dense", 8, 3, (0,), (1,)),
    }
    assert layers(arch, "readout_fan_in") == {"a": 0, "b": 8}
    assert leaders(arch) == {"a_bias": "a", "b_bias": "b"}
    assert arch.path_depths == {2: 1}


@pytest.mark.parametrize("norm", ["none", "pre", "post"])
def test_residual_blocks(norm):
    def net(p, x):
        x = x @ p["stem"]
        for block in ("0", "1"):
            y = normalise(x) * p["scale" + block] if norm == "pre" else x
            x = x + relu(y @ p["a" + block]) @ p["b" + block]
            if norm == "post":
                x = normalise(x) * p["scale" + block]
        return x @ p["head"]

    params = square(["stem", "a0", "b0", "a1", "b1", "head"])
    if norm != "none":
        params |= {"scale0": shape(4), "scale1": shape(4)}
    arch = trace(net, params, x4)
    first = "+(stem(x), b0(a0(stem(x))))"
    assert draw(arch) == f"head(+({first}, b1(a1({first}))))"
    assert layers(arch, "in_degree", "source_in_degree", "residual_blocks") == {
        "stem": (1, 1, 1),
        "a0": (1, 1, 1),
        "b0": (2, 1, 2),
        "a1": (1, 2, 1),
        "b1": (2, 1, 2),
        "head": (1, 2, 1),
    }
    if norm == "pre":
        assert leaders(arch) == {"scale0": "stem", "scale1": "b0"}
    if norm == "post":
        assert leaders(arch) == {"scale0": "b0", "scale1": "b1"}
    assert arch.path_depths == {2: 1, 4: 2, 6: 1}


class NormalisedConvs(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.b = nnx.Conv(8, 8, (3, 5), rngs=rngs)

    def __call__(self, x):
        return nnx.max_pool(self.b(relu(self.norm(self.a(x)))), (2, 2))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_stays_in_the_node_it_normalises(mode):
    module = nnx.eval_shape(lambda: NormalisedConvs(nnx.Rngs(0)))
    module.train() if mode == "train" else module.eval()
    arch = trace(module, shape(2, 8, 8, 3))
    assert draw(arch) == "b/kernel(a/kernel(x))"
    assert layers(arch, "kind", "fan_in", "fan_out", "kernel_size") == {
        "a/kernel": ("conv", 27, 72, (3, 3)),
        "b/kernel": ("conv", 120, 120, (3, 5)),
    }
    assert layers(arch, "in_axes", "out_axes", "position_axes") == {
        "a/kernel": ((2,), (3,), (0, 1)),
        "b/kernel": ((2,), (3,), (0, 1)),
    }
    assert leaders(arch) == {
        "a/bias": "a/kernel",
        "norm/scale": "a/kernel",
        "norm/bias": "a/kernel",
        "b/bias": "b/kernel",
    }


def test_batch_norm_of_linen_in_evaluation_with_statistics_as_an_input():
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = flax.linen.Dense(8)(x)
            x = flax.linen.BatchNorm(use_running_average=True)(x)
            return flax.linen.Dense(2)(x)

    net = Net()
    variables = jax.eval_shape(net.init, jax.random.key(0), x4)
    fn = lambda p, stats, x: net.apply({"params": p, "batch_stats": stats}, x)
    arch = trace(
        fn, variables["params"], variables["batch_stats"], x4, constant_inputs=[0]
    )
    assert draw(arch) == "Dense_1/kernel(Dense_0/kernel(x))"
    assert leaders(arch)["BatchNorm_0/scale"] == "Dense_0/kernel"


def test_dense_net_concatenates():
    def net(p, x):
        x = x @ p["stem"]
        x = jnp.concatenate([x, relu(normalise(x)) @ p["a"]], -1)
        x = jnp.concatenate([x, relu(normalise(x)) @ p["b"]], -1)
        return x @ p["head"]

    params = {"stem": shape(4, 8), "a": shape(8, 2), "b": shape(10, 2)}
    arch = trace(net, params | {"head": shape(12, 3)}, x4)
    first = "*(a(stem(x)), stem(x))"
    assert draw(arch) == f"head(*({first}, b({first})))"
    assert set(layers(arch, "in_degree").values()) == {1}
    assert layers(arch, "fan_in")["head"] == 12
    assert arch.path_depths == {2: 1, 3: 2, 4: 1}


def test_inception_branches():
    def net(p, x):
        pooled = lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
        )
        conv = lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        branches = [
            conv(x, p["a"]),
            conv(relu(conv(x, p["b0"])), p["b1"]),
            conv(pooled, p["c"]),
        ]
        return jnp.mean(jnp.concatenate(branches, -1), (1, 2)) @ p["head"]

    params = {"a": shape(1, 1, 3, 4), "b0": shape(1, 1, 3, 2), "b1": shape(3, 3, 2, 4)}
    params |= {"c": shape(1, 1, 3, 4), "head": shape(12, 5)}
    arch = trace(net, params, shape(2, 8, 8, 3))
    assert draw(arch) == "head(*(a(x), b1(b0(x)), c(x)))"
    assert arch.path_depths == {2: 2, 3: 1}


def test_swiglu_with_separate_and_with_fused_gates():
    def separate(p, x):
        return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]

    def fused(p, x):
        gate, up = jnp.split(x @ p["both"], 2, -1)
        return (jax.nn.silu(gate) * up) @ p["down"]

    down = {"down": shape(8, 4)}
    arch = trace(separate, {"gate": shape(4, 8), "up": shape(4, 8)} | down, x4)
    assert draw(arch) == "down(*(gate(x), up(x)))"
    assert layers(arch, "in_degree", "splits")["gate"] == (1, 1)
    arch = trace(fused, {"both": shape(4, 16)} | down, x4)
    assert draw(arch) == "down(both(x))"
    assert layers(arch, "splits") == {"both": 2, "down": 1}


def attention(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


x348 = shape(3, 4, 8)


def test_single_head_attention():
    def net(p, x):
        q, k, v = (x @ p[name] for name in "qkv")
        return jax.nn.softmax(q @ k.mT) @ v @ p["out"]

    arch = trace(net, square(["q", "k", "v", "out"], 8), x348)
    assert draw(arch) == "out(*(*(k(x), q(x)), v(x)))"
    assert arch.path_depths == {2: 3}


def test_split_multi_head_attention_with_kernels_of_rank_3():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

        def __call__(self, x):
            return x + self.attention(normalise(x))

    arch = trace(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), x348)
    q, k, v, out = (f"attention/{n}/kernel" for n in ("query", "key", "value", "out"))
    assert draw(arch) == f"+(x, {out}(*(*({k}(x), {q}(x)), {v}(x))))"
    assert layers(arch, "fan_in", "fan_out", "in_axes", "out_axes") == {
        q: (8, 8, (0,), (1, 2)),
        k: (8, 8, (0,), (1, 2)),
        v: (8, 8, (0,), (1, 2)),
        out: (8, 8, (0, 1), (2,)),
    }
    assert layers(arch, "in_degree", "splits") == {
        q: (1, 1),
        k: (1, 1),
        v: (1, 1),
        out: (2, 1),
    }
    assert leaders(arch)["attention/query/bias"] == q


def fused_by_split(p, x):
    q, k, v = jnp.split(x @ p["qkv"], 3, -1)
    return attention(*(y.reshape(3, 4, 2, 4) for y in (q, k, v)))


def fused_by_index(p, x):
    y = (x @ p["qkv"]).reshape(3, 4, 3, 2, 4)
    return attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])


def fused_by_unpacking(p, x):
    y = (x @ p["qkv"]).reshape(3, 4, 3, 2, 4)
    return attention(*y.transpose(2, 0, 1, 3, 4))


def fused_by_einsum(p, x):
    y = jnp.einsum("btc,cn->btn", x, p["qkv"]).reshape(3, 4, 2, 3, 4)
    return attention(*jnp.moveaxis(y, 3, 0))


@pytest.mark.parametrize(
    "fused", [fused_by_split, fused_by_index, fused_by_unpacking, fused_by_einsum]
)
def test_fused_attention_is_one_layer_cut_in_three(fused):
    net = lambda p, x: fused(p, x).reshape(3, 4, 8) @ p["out"]
    arch = trace(net, {"qkv": shape(8, 24), "out": shape(8, 8)}, x348)
    assert draw(arch) == "out(qkv(x))"
    assert layers(arch, "splits", "fan_out") == {"qkv": (3, 24), "out": (1, 8)}


def test_weights_cut_in_three_before_they_are_used():
    def net(p, x):
        q, k, v = (x @ p["qkv"][:, 8 * i : 8 * i + 8] for i in range(3))
        return jax.nn.softmax(q @ k.mT) @ v

    arch = trace(net, {"qkv": shape(8, 24)}, x348)
    assert draw(arch) == "*(*(qkv(x), qkv(x)), qkv(x))"
    assert layers(arch, "splits", "uses", "fan_in") == {"qkv": (3, 1, 8)}


def test_rotary_halves_are_no_projections_of_their_own():
    def rotate(y):
        a, b = jnp.split(y, 2, -1)
        return jnp.concatenate([a * 0.6 - b * 0.8, b * 0.6 + a * 0.8], -1)

    def net(p, x):
        q, k, v = jnp.split(x @ p["qkv"], 3, -1)
        q, k = rotate(q), rotate(k)
        heads = (y.reshape(3, 4, 2, 4) for y in (q, k, v))
        return rotate(attention(*heads).reshape(3, 4, 8) @ p["out"])

    arch = trace(net, {"qkv": shape(8, 24), "out": shape(8, 8)}, x348)
    assert layers(arch, "splits") == {"qkv": 3, "out": 1}


def test_grouped_queries():
    def net(p, x):
        q = jnp.einsum("btc,chd->bthd", x, p["q"])
        k = jnp.repeat(jnp.einsum("btc,chd->bthd", x, p["k"]), 2, axis=2)
        v = jnp.repeat(jnp.einsum("btc,chd->bthd", x, p["v"]), 2, axis=2)
        return jnp.einsum("bthd,hdc->btc", attention(q, k, v), p["out"])

    params = {"q": shape(8, 4, 2), "k": shape(8, 2, 2), "v": shape(8, 2, 2)}
    arch = trace(net, params | {"out": shape(4, 2, 8)}, x348)
    assert draw(arch) == "out(*(*(k(x), q(x)), v(x)))"
    assert layers(arch, "fan_in", "fan_out") == {
        "q": (8, 8),
        "k": (8, 4),
        "v": (8, 4),
        "out": (8, 8),
    }


def test_squeeze_and_excitation():
    def net(p, x):
        x = x @ p["stem"]
        gate = jax.nn.sigmoid(relu(jnp.mean(x, 1) @ p["a"]) @ p["b"])
        return (x * gate[:, None]) @ p["head"]

    arch = trace(net, square(["stem", "a", "b", "head"], 8), x348)
    assert draw(arch) == "head(*(b(a(stem(x))), stem(x)))"
    assert set(layers(arch, "in_degree").values()) == {1}


def test_depthwise_grouped_and_dilated_convolutions():
    class Net(nnx.Module):
        def __init__(self, rngs):
            conv = functools.partial(nnx.Conv, rngs=rngs, use_bias=False)
            self.depthwise = conv(8, 8, (3, 3), feature_group_count=8)
            self.grouped = conv(8, 12, (3, 3), feature_group_count=4)
            self.dilated = conv(12, 6, (3, 3), kernel_dilation=2)
            self.line = conv(6, 6, (5,))

        def __call__(self, x):
            x = self.dilated(relu(self.grouped(relu(self.depthwise(x)))))
            return self.line(jnp.mean(x, 1))

    arch = trace(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), shape(2, 9, 9, 8))
    names = ("line", "dilated", "grouped", "depthwise")
    assert draw(arch) == "{}/kernel({}/kernel({}/kernel({}/kernel(x))))".format(*names)
    assert layers(arch, "fan_in", "fan_out", "kernel_size") == {
        "depthwise/kernel": (9, 9, (3, 3)),
        "grouped/kernel": (2 * 9, 3 * 9, (3, 3)),
        "dilated/kernel": (12 * 9, 6 * 9, (3, 3)),
        "line/kernel": (6 * 5, 6 * 5, (5,)),
    }
    assert layers(arch, "in_axes", "out_axes", "position_axes")["line/kernel"] == (
        (1,),
        (2,),
        (0,),
    )


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_transposed_convolution(transpose_kernel):
    module = nnx.eval_shape(
        lambda: nnx.ConvTranspose(
            *((6, 4) if not transpose_kernel else (4, 6)),
            (3, 3),
            strides=2,
            transpose_kernel=transpose_kernel,
            rngs=nnx.Rngs(0),
        )
    )
    channels = 6 if not transpose_kernel else 4
    arch = trace(module, shape(2, 5, 5, channels))
    assert draw(arch) == "kernel(x)"
    (layer,) = arch.layers
    kernel = dict(arch.leaves)["kernel"]
    assert kernel[layer.in_axes[0]] == channels
    assert (layer.fan_in, layer.position_axes) == (9 * channels, (0, 1))
    assert leaders(arch) == {"bias": "kernel"}


def test_equinox_stores_out_before_in():
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.LayerNorm
        linear: eqx.nn.Linear

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
            self.norm = eqx.nn.LayerNorm(8)
            self.linear = eqx.nn.Linear(8, 5, key=key)

        def __call__(self, x):
            return self.linear(self.norm(relu(self.conv(x)).mean((1, 2))))

    model = eqx.filter_eval_shape(Net, jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array_like)
    params, static = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    fn = lambda p, x: jax.vmap(eqx.combine(p, static))(x)
    arch = trace(fn, params, shape(2, 3, 8, 8))
    assert draw(arch) == "linear/weight(conv/weight(x))"
    assert layers(arch, "in_axes", "out_axes", "position_axes", "fan_in") == {
        "conv/weight": ((1,), (0,), (2, 3), 27),
        "linear/weight": ((1,), (0,), (), 8),
    }
    assert leaders(arch) == {
        "conv/bias": "conv/weight",
        "norm/weight": "conv/weight",
        "norm/bias": "conv/weight",
        "linear/bias": "linear/weight",
    }


tokens = shape(2, 5, dtype=jnp.int32)


@pytest.mark.parametrize("how", ["index", "take", "one_hot", "equinox"])
def test_embeddings(how):
    def net(p, t):
        table = p["table"]
        x = {
            "index": lambda: table[t],
            "take": lambda: jnp.take(table, t, axis=0),
            "one_hot": lambda: jax.nn.one_hot(t, 11) @ table,
            "equinox": lambda: jax.vmap(jax.vmap(eqx.nn.Embedding(weight=table)))(t),
        }[how]()
        return x @ p["head"]

    arch = trace(net, {"table": shape(11, 4), "head": shape(4, 3)}, tokens)
    assert draw(arch) == "head(table(x))"
    assert layers(arch, "kind", "fan_in", "fan_out", "in_axes", "out_axes") == {
        "table": ("embedding", 11, 4, (0,), (1,)),
        "head": ("dense", 4, 3, (0,), (1,)),
    }


def test_positional_embeddings_by_lookup_by_slice_and_whole():
    def net(p, t):
        x = p["token"][t] + jnp.take(p["looked_up"], jnp.arange(5), axis=0)
        x = x + p["sliced"][:5] + p["whole"]
        return x @ p["head"]

    params = {"token": shape(11, 4), "looked_up": shape(9, 4), "sliced": shape(9, 4)}
    arch = trace(net, params | {"whole": shape(1, 5, 4), "head": shape(4, 3)}, tokens)
    assert draw(arch) == "head(+(token(x), looked_up()))"
    assert layers(arch, "kind", "in_degree")["looked_up"] == ("embedding", 2)
    assert leaders(arch) == {"sliced": "looked_up", "whole": "looked_up"}
    assert arch.path_depths == {2: 1}  # only the tokens are an input


def test_a_class_token_is_a_vector():
    def net(p, x):
        x = x @ p["patches"]
        token = jnp.broadcast_to(p["token"], (3, 1, 8))
        x = jnp.concatenate([token, x], 1) + p["positions"]
        return x[:, 0] @ p["head"]

    params = {"patches": shape(8, 8), "token": shape(1, 1, 8), "head": shape(8, 2)}
    arch = trace(net, params | {"positions": shape(1, 5, 8)}, x348)
    assert draw(arch) == "head(patches(x))"
    assert leaders(arch) == {"token": "patches", "positions": "patches"}


def test_tied_weights():
    def net(p, t):
        x = p["table"][t]
        x = x + relu(x @ p["a"]) @ p["b"]
        return x @ p["table"].T

    arch = trace(net, {"table": shape(11, 4)} | square("ab"), tokens)
    assert draw(arch) == "table(+(table(x), b(a(table(x)))))"
    table = arch.layers[0]
    assert (table.path, table.uses, table.kind) == ("table", 2, "embedding")
    assert (table.fan_in, table.readout_fan_in) == (11, 4)
    assert (table.in_axes, table.out_axes) == ((0,), (1,))


def test_low_rank_adaptation_is_one_layer_of_several_leaves():
    def net(p, x):
        return relu(x @ (p["w"] + 0.5 * p["a"] @ p["b"])) @ p["head"]

    params = {"a": shape(4, 2), "b": shape(2, 6), "w": shape(4, 6)}
    arch = trace(net, params | {"head": shape(6, 3)}, x4)
    assert draw(arch) == "head(w(x))"
    adapted = arch.layers[0]
    assert (adapted.fan_in, adapted.fan_out, adapted.uses) == (4, 6, 1)
    assert [(y.path, y.in_axes, y.out_axes, y.is_factor) for y in adapted.leaves] == [
        ("w", (0,), (1,), False),
        ("a", (0,), (1,), True),
        ("b", (0,), (1,), True),
    ]
    apart = lambda p, x: (x @ p["w"] + x @ p["a"] @ p["b"]) @ p["head"]
    arch = trace(apart, params | {"head": shape(6, 3)}, x4)
    assert draw(arch) == "head(+(w(x), b(a(x))))"


def test_weight_normalisation_is_one_layer():
    def net(p, x):
        w = p["v"] / jnp.linalg.norm(p["v"], axis=0) * p["g"]
        return relu(x @ w) @ p["head"]

    params = {"v": shape(4, 6), "g": shape(6), "head": shape(6, 3)}
    arch = trace(net, params, x4)
    assert draw(arch) == "head(v(x))"
    assert [y.path for y in arch.layers[0].leaves] == ["v"]
    assert [(v.path, v.leader, v.role) for v in arch.vectors] == [
        ("g", "v", "weight_scale")
    ]


def test_spectral_normalisation_is_one_layer():
    module = nnx.SpectralNorm(nnx.Linear(4, 6, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    arch = trace(module, x4)
    kernel = "layer_instance/kernel"
    assert layers(arch, "in_axes", "out_axes", "stack_axes") == {
        kernel: ((0,), (1,), ())
    }
    assert leaders(arch) == {"layer_instance/bias": kernel}


def test_experts():
    def ragged(p, x):
        return lax.ragged_dot(x, p["w"], jnp.array([1, 0, 1]))

    def dispatched(p, x):
        chosen = jax.nn.one_hot(jnp.argmax(x @ p["router"], -1), 3)
        rows = jnp.einsum("te,td->etd", chosen, x)
        return jnp.einsum("etd,te->td", jax.vmap(jnp.matmul)(rows, p["w"]), chosen)

    arch = trace(ragged, {"w": shape(3, 4, 6)}, x4)
    fields = ("in_axes", "out_axes", "stack_axes", "fan_in", "fan_out")
    assert layers(arch, *fields) == {"w": ((1,), (2,), (0,), 4, 6)}
    # No derivative passes through the choice: the router makes no path.
    with pytest.raises(ValueError, match="reads the parameters `router`"):
        trace(dispatched, {"w": shape(3, 4, 6), "router": shape(4, 3)}, x4)


def test_scan_over_stacked_layers():
    def body(x, block):
        y = relu(normalise(x) * block["scale"] @ block["a"]) + block["bias"]
        return x + y @ block["b"], None

    def net(p, x):
        x, _ = lax.scan(body, x @ p["stem"], p["blocks"])
        return normalise(x) * p["scale"] @ p["head"]

    blocks = {"a": shape(3, 4, 4), "b": shape(3, 4, 4), "scale": shape(3, 4)}
    params = {"blocks": blocks | {"bias": shape(3, 4)}, "scale": shape(4)}
    arch = trace(net, params | square(["stem", "head"]), x4)
    x = "stem(x)"
    for _ in range(3):
        x = f"+({x}, blocks/b(blocks/a({x})))"
    assert draw(arch) == f"head({x})"
    fields = ("in_axes", "out_axes", "stack_axes", "uses", "residual_blocks")
    assert layers(arch, *fields)["blocks/b"] == ((1,), (2,), (0,), 1, 3)
    # The layer upstream of the last scale is stacked, the scale is not.
    assert leaders(arch) == {
        "blocks/scale": "blocks/b",
        "blocks/bias": "blocks/a",
        "scale": "head",
    }
    assert {v.path: v.stack_axes for v in arch.vectors} == {
        "blocks/scale": (0,),
        "blocks/bias": (0,),
        "scale": (),
    }
    assert arch.path_depths == {2: 1, 4: 3, 6: 3, 8: 1}


@pytest.mark.parametrize("loop", ["index", "fori_loop", "reverse", "nested", "tree"])
def test_other_loops_over_a_stack(loop):
    def net(p, x):
        w = p["w"]
        if loop == "index":
            for i in range(4):
                x = relu(x @ w[i])
            return x
        if loop == "tree":
            for layer in w:
                x = relu(x @ layer)
            return x
        if loop == "fori_loop":
            return lax.fori_loop(0, 4, lambda i, x: relu(x @ w[i]), x)
        step = lambda x, w: (relu(x @ w), None)
        if loop == "reverse":
            return lax.scan(step, x, w, reverse=True)[0]
        outer = lambda x, w: (lax.scan(step, x, w)[0], None)
        return lax.scan(outer, x, w.reshape(2, 2, 4, 4))[0]

    arch = trace(net, {"w": shape(4, 4, 4)}, x4)
    assert draw(arch) == "w(w(w(w(x))))"
    fields = ("in_axes", "out_axes", "stack_axes", "uses")
    assert layers(arch, *fields) == {"w": ((1,), (2,), (0,), 1)}


def test_nnx_scan_over_stacked_modules():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.linear = nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, x):
            return x + self.linear(self.norm(x))

    class Net(nnx.Module):
        def __init__(self, rngs):
            make = nnx.split_rngs(splits=3)(nnx.vmap(Block))
            self.blocks = make(rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            step = nnx.scan(
                lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )
            return self.head(step(x, self.blocks))

    arch = trace(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), x4)
    x = "x"
    for _ in range(3):
        x = f"+({x}, blocks/linear/kernel({x}))"
    assert draw(arch) == f"head/kernel({x})"
    assert layers(arch, "stack_axes")["blocks/linear/kernel"] == (0,)
    assert leaders(arch)["blocks/norm/scale"] == "blocks/linear/kernel"


def test_remat_and_custom_derivatives_are_transparent():
    @jax.custom_jvp
    def bend(x):
        return jnp.maximum(x, 0)

    bend.defjvp(lambda x, t: (bend(*x), t[0]))

    @jax.custom_vjp
    def dense(w, x):
        return x @ w

    dense.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (r[1].T @ g, g @ r[0].T))

    @jax.checkpoint
    def block(p, x):
        return x + bend(dense(p["a"], x)) @ p["b"]

    net = lambda p, x: jax.jit(block)(p, dense(p["stem"], x))
    arch = trace(net, square(["stem", "a", "b"]), x4)
    assert draw(arch) == "+(stem(x), b(a(stem(x))))"


def test_cond_follows_all_branches():
    def net(p, x):
        x = x @ p["stem"]
        deep = lambda x: relu(x @ p["a"]) @ p["b"]
        x = lax.cond(jnp.sum(x) > 0, deep, lambda x: x @ p["c"], x)
        return x @ p["head"]

    arch = trace(net, square(["stem", "a", "b", "c", "head"]), x4)
    assert draw(arch) == "head(*(b(a(stem(x))), c(stem(x))))"
    assert arch.path_depths == {3: 1, 4: 1}


def test_recurrent_network_shares_weights_over_time():
    def net(p, xs):
        def step(h, x):
            h = jnp.tanh(x @ p["wx"] + h @ p["wh"] + p["bias"])
            return h, h

        return lax.scan(step, jnp.zeros((2, 4)), xs)[0] @ p["head"]

    params = {"wx": shape(3, 4), "wh": shape(4, 4), "bias": shape(4)}
    arch = trace(net, params | {"head": shape(4, 2)}, shape(3, 2, 3))
    h = "wx(x)"  # the first state is a constant
    for _ in range(2):
        h = f"+(wx(x), wh({h}))"
    assert draw(arch) == f"head({h})"
    assert layers(arch, "uses", "in_degree", "stack_axes") == {
        "wx": (3, 2, ()),
        "wh": (2, 2, ()),
        "head": (1, 1, ()),
    }
    assert leaders(arch) == {"bias": "wh"}  # the latest one upstream of the sum
    assert arch.path_depths == {2: 1, 3: 1, 4: 1}


def test_vectors_of_a_recurrent_network_follow_the_layer_of_most_steps():
    module = nnx.eval_shape(lambda: nnx.RNN(nnx.LSTMCell(4, 5, rngs=nnx.Rngs(0))))
    arch = trace(module, shape(2, 4, 4))
    assert leaders(arch) == {
        f"cell/h{gate}/bias": f"cell/h{gate}/kernel" for gate in "fgio"
    }
    assert layers(arch, "uses")["cell/ho/kernel"] == 3


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)])
def test_dropout_and_noise(key):
    def net(p, x, key):
        x = relu(x @ p["a"])
        keep = jax.random.bernoulli(key, 0.5, x.shape)
        x = jnp.where(keep, x / 0.5, 0) + jax.random.normal(key, x.shape)
        return x @ p["b"]

    arch = trace(net, square("ab"), x4, key)
    names = ["x"] if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else ["x", "key"]
    assert draw(arch, names) == "b(a(x))"


def test_masks_make_no_paths():
    def net(p, x, mask):
        y = x @ p["a"]
        y = jnp.where(mask, y, 0) * mask.astype(float)
        return jnp.where(y > 0, y, 0.1 * y) @ p["b"]

    arch = trace(net, square("ab"), x4, shape(2, 4, dtype=bool))
    assert arch.num_paths == 1
    assert arch.path_depths == {2: 1}


def test_layers_behind_vmap_and_jit():
    def expert(p, x):
        h = relu(jax.jit(jnp.matmul)(x, p["a"]) + p["bias"])
        return h @ p["b"]

    def net(p, x):
        x = jnp.broadcast_to(x, (3, *x.shape)) * jnp.arange(3.0)[:, None, None]
        return jnp.sum(jax.vmap(expert)(p, x), 0)

    params = {"a": shape(3, 4, 6), "bias": shape(3, 6), "b": shape(3, 6, 2)}
    arch = trace(net, params, x4)
    assert draw(arch) == "b(a(x))"
    assert layers(arch, "in_axes", "out_axes", "stack_axes", "fan_in", "fan_out") == {
        "a": ((1,), (2,), (0,), 4, 6),
        "b": ((1,), (2,), (0,), 6, 2),
    }
    assert [(v.leader, v.stack_axes) for v in arch.vectors] == [("a", (0,))]


def test_convolutions_behind_vmap():
    conv = lambda w, x: lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    net = lambda p, x: jax.vmap(conv)(p["w"], jnp.stack([x, 2 * x]))
    arch = trace(net, {"w": shape(2, 3, 3, 4, 5)}, shape(1, 8, 8, 4))
    fields = ("in_axes", "out_axes", "position_axes", "stack_axes", "fan_in", "fan_out")
    assert layers(arch, *fields) == {"w": ((3,), (4,), (1, 2), (0,), 36, 45)}


def test_sums_of_many_branches_are_one_node():
    def net(p, x):
        total = x @ p["a"] + x @ p["b"]
        total = 0.5 * (total - x @ p["c"]) + relu(x @ p["d"])
        return relu(total) @ p["head"] + x

    arch = trace(net, square(["a", "b", "c", "d", "head"]), x4)
    assert draw(arch) == "+(head(+(a(x), b(x), c(x), d(x))), x)"
    assert layers(arch, "in_degree") == {"a": 4, "b": 4, "c": 4, "d": 4, "head": 2}


@pytest.mark.parametrize("bend", [relu, jnp.tanh, jnp.square, normalise])
def test_a_bent_partial_sum_is_a_node_of_its_own(bend):
    net = lambda p, x: bend(x @ p["a"] + x @ p["b"]) + x @ p["c"]
    arch = trace(net, square("abc"), x4)
    assert draw(arch) == "+(+(a(x), b(x)), c(x))"
    assert layers(arch, "in_degree") == {"a": 2, "b": 2, "c": 2}


def test_several_inputs_and_outputs():
    def net(p, x, y):
        h = x @ p["a"] + y @ p["b"]
        return {"first": h @ p["c"], "second": (h @ p["d"], jnp.argmax(h))}

    arch = trace(net, square("abcd"), x4, x4)
    h = "+(a(x), b(y))"
    assert draw(arch, ["x", "y"]) == f"c({h}) | d({h})"
    assert layers(arch, "readout_fan_in") == {"a": 0, "b": 0, "c": 4, "d": 4}
    assert arch.path_depths == {2: 4}


def test_a_function_may_take_a_module_as_its_parameters():
    module = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    arch = trace(lambda m, x: relu(m(x)), module, x4)
    assert arch == trace(module, x4)
    assert draw(arch) == "kernel(x)"


def test_the_graph_is_plain_hashable_python():
    module = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    arch = trace(module, x4)
    assert hash(arch) == hash(trace(module, x4))
    assert eval(repr(arch), vars(hp.architecture)) == arch


def test_a_map_over_examples_is_one_layer_as_vmap_is():
    rows = lambda p, x: lax.map(lambda row: relu(row @ p["a"]) @ p["b"], x)
    arch = trace(rows, square("ab"), x4)
    assert draw(arch) == "b(a(x))"
    assert layers(arch, "uses") == {"a": 1, "b": 1}


def test_a_kronecker_product_of_two_leaves():
    net = lambda p, x: x @ jnp.kron(p["a"], p["b"])
    arch = trace(net, {"a": shape(2, 3), "b": shape(2, 5)}, x4)
    (layer,) = arch.layers
    assert (layer.path, layer.fan_in, layer.fan_out) == ("a", 4, 15)
    assert [(y.path, y.in_axes, y.out_axes) for y in layer.leaves] == [
        ("a", (0,), (1,)),
        ("b", (0,), (1,)),
    ]


def test_a_loop_without_parameters_joins_what_enters_it():
    def net(p, x):
        h = lax.while_loop(lambda h: jnp.sum(h) < 9, lambda h: h * h, x @ p["a"])
        total = lax.scan(lambda c, y: (c + y, None), jnp.zeros(4), h)[0]
        return total @ p["b"]

    arch = trace(net, square("ab"), x4)
    assert draw(arch) == "b(a(x))"


# --- what cannot be analysed, and bad input -------------------------------------------


def test_a_while_loop_over_layers_names_itself_and_the_line():
    def net(p, x):
        return lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ p["a"], x)

    with pytest.raises(NotImplementedError, match=r"`while`.*test_trace\.py:\d+"):
        trace(net, square("a"), x4)


def test_a_primitive_deep_inside_jax_names_the_line_of_the_call():
    net = lambda p, x: jnp.linalg.solve(p["a"], x.T)
    with pytest.raises(NotImplementedError, match=r"solve` at .*test_trace\.py:\d+"):
        trace(net, square("a"), x4)


def test_an_unknown_combination_names_the_primitive_and_the_line():
    def net(p, x):
        return lax.linalg.triangular_solve(p["a"], x.T, left_side=True)

    with pytest.raises(
        NotImplementedError, match=r"`triangular_solve`.*test_trace\.py"
    ):
        trace(net, square("a"), x4)


def test_axes_that_cannot_be_followed_name_the_parameter_and_the_line():
    net = lambda p, x: x @ lax.linalg.cholesky(p["a"], symmetrize_input=False)
    with pytest.raises(NotImplementedError, match=r"`a`(?s:.*)`cholesky`.*test_trace"):
        trace(net, square("a"), x4)
    mixed = lambda p, x: x @ p["a"].reshape(3, 2).T.reshape(3, 2)
    with pytest.raises(
        NotImplementedError, match=r"`dot_general` at .*test_trace.*`a`"
    ):
        trace(mixed, {"a": shape(2, 3)}, shape(1, 3))


def test_params_that_nothing_reads_are_named():
    net = lambda p, x: x @ p["a"]
    with pytest.raises(ValueError, match="reads the parameters `b/c`"):
        trace(net, {"a": shape(4, 4), "b": {"c": shape(4)}}, x4)

    def dead(p, x):
        _ = x @ p["b"]
        return x @ p["a"]

    with pytest.raises(ValueError, match="reads the parameters `b`"):
        trace(dead, square("ab"), x4)


def test_a_function_that_ignores_its_params():
    with pytest.raises(ValueError, match=r"ignores its parameters.*`a`, `b`"):
        trace(lambda p, x: x @ jnp.ones((4, 4)), square("ab"), x4)


def test_outputs_without_input():
    with pytest.raises(ValueError, match="depend on none of its inputs"):
        trace(lambda p, x: p["a"] @ p["a"], square("a"), x4)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="needs the parameters and at least one input"):
        trace(lambda p: p, square("a"))
    with pytest.raises(TypeError, match="must be a function"):
        trace(square("a"), square("a"), x4)
    with pytest.raises(ValueError, match="`constant_inputs` has the position 1"):
        trace(lambda p, x: x @ p["a"], square("a"), x4, constant_inputs=[1])
