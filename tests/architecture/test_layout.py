import functools
import time

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import hpfree_jax as hp
from tests.architecture.drawing import shape

Matrix, Vector = hp.Matrix, hp.Vector


class Convs(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List(
            [
                nnx.Conv(3, 8, (3, 3), rngs=rngs),
                nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs),
                nnx.Conv(8, 12, (1, 1), use_bias=False, rngs=rngs),
            ]
        )
        self.head = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x.mean((1, 2)))


class Perceptron(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        for width in (8, 6):
            x = flax.linen.relu(flax.linen.Dense(width)(x))
        return flax.linen.Dense(1)(x)


def test_it_is_the_inferred_layout_where_names_and_shapes_say_enough():
    convs = nnx.eval_shape(lambda: Convs(nnx.Rngs(0)))
    params = nnx.state(convs, nnx.Param)
    arch = hp.trace_architecture(convs, shape(2, 8, 8, 3))
    assert arch.layout() == arch.layout(params) == hp.infer_layout(params)

    net = Perceptron()
    params = jax.eval_shape(net.init, jax.random.key(0), shape(2, 4))["params"]
    fn = lambda p, x: net.apply({"params": p}, x)
    arch = hp.trace_architecture(fn, params, shape(2, 4))
    assert arch.layout(params) == hp.infer_layout(params)


def normalise(x, scale):
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * scale


def gpt(p, tokens, *, heads=2):
    """A GPT of pre-normalised blocks with fused projections and a tied readout."""
    x = p["wte"][tokens] + p["wpe"][: tokens.shape[1]]
    size = x.shape

    def block(x, b):
        y = normalise(x, b["scale1"])
        q, k, v = jnp.split(y @ b["qkv"], 3, -1)
        q, k, v = (z.reshape(*size[:2], heads, size[2] // heads) for z in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + y.reshape(size) @ b["out"]
        y = jax.nn.gelu(normalise(x, b["scale2"]) @ b["up"] + b["bias"])
        return x + y @ b["down"], None

    if isinstance(p["blocks"], dict):
        x, _ = lax.scan(block, x, p["blocks"])
    else:
        for b in p["blocks"]:
            x, _ = block(x, b)
    return normalise(x, p["scale"]) @ p["wte"].T


def gpt_params(num_blocks, *, stacked, width=8, vocabulary=11):
    block = {
        "scale1": shape(width),
        "qkv": shape(width, 3 * width),
        "out": shape(width, width),
        "scale2": shape(width),
        "up": shape(width, 4 * width),
        "bias": shape(4 * width),
        "down": shape(4 * width, width),
    }
    blocks = [block] * num_blocks
    if stacked:
        blocks = {k: shape(num_blocks, *v.shape) for k, v in block.items()}
    return {
        "wte": shape(vocabulary, width),
        "wpe": shape(6, width),
        "blocks": blocks,
        "scale": shape(width),
    }


tokens = shape(4, 6, dtype=jnp.int32)


def test_a_gpt_by_hand():
    params = gpt_params(4, stacked=False)
    layout = hp.trace_architecture(gpt, params, tokens).layout(params)
    expected = {
        "wte": Matrix(0, 1),
        "wpe": Vector("wte"),
        "scale": Vector("blocks/3/down"),
    }
    for i in range(4):
        block = f"blocks/{i}"
        expected |= {
            f"{block}/scale1": Vector(f"blocks/{i - 1}/down" if i else "wte"),
            f"{block}/qkv": Matrix(0, 1, scale_divisor=3, depth_count=3),
            # 4 blocks write to the stream, each by two projections.
            f"{block}/out": Matrix(0, 1, scale_divisor=4),
            f"{block}/scale2": Vector(f"{block}/out"),
            f"{block}/up": Matrix(0, 1),
            f"{block}/bias": Vector(f"{block}/up"),
            f"{block}/down": Matrix(0, 1, scale_divisor=4),
        }
    assert layout == hp.Layout(expected)


def test_a_scanned_gpt_by_hand():
    params = gpt_params(4, stacked=True)
    layout = hp.trace_architecture(gpt, params, tokens).layout(params)
    stacked = {
        "scale1": Vector("blocks/down", 0),
        "qkv": Matrix(1, 2, (), 0, scale_divisor=3, depth_count=3),
        "out": Matrix(1, 2, (), 0, scale_divisor=4),
        "scale2": Vector("blocks/out", 0),
        "up": Matrix(1, 2, (), 0),
        "bias": Vector("blocks/up", 0),
        "down": Matrix(1, 2, (), 0, scale_divisor=4),
    }
    assert layout == hp.Layout(
        {
            "wte": Matrix(0, 1),
            "wpe": Vector("wte"),
            "scale": Vector("wte"),  # the readout: no single slice of a stack leads it
        }
        | {f"blocks/{name}": rule for name, rule in stacked.items()}
    )


def test_a_gpt_2_xl_takes_seconds():
    params = gpt_params(48, stacked=False, width=1600, vocabulary=50257)
    params["wpe"] = shape(1024, 1600)
    model = functools.partial(gpt, heads=25)
    start = time.process_time()
    arch = hp.trace_architecture(model, params, shape(1, 1024, dtype=jnp.int32))
    assert arch.num_paths == sum(arch.path_depths.values()) == 2**96
    assert len(arch.layout(params)) == len(arch.leaves)
    assert time.process_time() - start < 10  # about 1 on one core


def test_divisors_of_the_experimental_code():
    """GPT of agd_exp: qkv counts 3, projections are divided by the number of blocks."""
    params = gpt_params(2, stacked=False)
    layout = hp.trace_architecture(gpt, params, tokens).layout()
    divisors = {path: rule.scale_divisor for path, rule in layout.matrices.items()}
    assert divisors["blocks/1/qkv"] == 3
    assert divisors["blocks/0/out"] == divisors["blocks/1/down"] == 2


def test_residual_convolutions_divide_by_the_blocks_of_their_stage():
    def net(p, x):
        conv = lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = conv(x, p["stem"])
        for i in range(3):
            x = jax.nn.relu(x + conv(jax.nn.relu(conv(x, p["a"][i])), p["b"][i]))
        x = conv(x, p["shortcut"]) + conv(x, p["wide"])  # opens another stream
        x = jax.nn.relu(x + conv(x, p["last"]))
        return x.mean((1, 2)) @ p["head"]

    params = {"stem": shape(3, 3, 3, 4), "a": [shape(3, 3, 4, 4)] * 3}
    params |= {"b": [shape(3, 3, 4, 4)] * 3, "shortcut": shape(1, 1, 4, 8)}
    params |= {"wide": shape(3, 3, 4, 8), "last": shape(3, 3, 8, 8)}
    arch = hp.trace_architecture(net, params | {"head": shape(8, 2)}, shape(1, 8, 8, 3))
    divisors = {k: rule.scale_divisor for k, rule in arch.layout().matrices.items()}
    assert {k for k, m in divisors.items() if m != 1} == {"b/0", "b/1", "b/2"}
    assert divisors["b/0"] == divisors["b/2"] == 3


def test_parallel_branches_count_the_blocks_and_not_the_branches():
    def net(p, x):
        for i in range(3):
            x = x + jnp.tanh(x @ p["q"][i]) @ p["o"][i] + jax.nn.relu(x @ p["u"][i])
        return x

    params = {"q": [shape(4, 4)] * 3, "o": [shape(4, 4)] * 3, "u": [shape(4, 4)] * 3}
    arch = hp.trace_architecture(net, params, shape(2, 4))
    divisors = [rule.scale_divisor for rule in arch.layout().matrices.values()]
    assert divisors == [3, 3, 3, 1, 1, 1, 3, 3, 3]  # o, q, u
    assert {layer.in_degree for layer in arch.layers} == {1, 3}


def test_leaves_of_one_layer_are_matrices_each():
    def net(p, x):
        w = p["v"] / jnp.linalg.norm(p["v"], axis=0) * p["g"]
        return (x @ (p["w"] + p["a"] @ p["b"])) @ w

    params = {"w": shape(4, 6), "a": shape(4, 2), "b": shape(2, 6)}
    params |= {"v": shape(6, 3), "g": shape(3)}
    layout = hp.trace_architecture(net, params, shape(1, 4)).layout()
    assert layout == hp.Layout(
        {name: Matrix(0, 1) for name in "wabv"} | {"g": Vector("v")}
    )


def test_a_parameter_that_only_meets_constants_is_a_matrix():
    grid = np.linspace(-1, 1, 12).reshape(6, 2)

    def net(p, x):
        bias = jnp.tanh(jnp.asarray(grid, jnp.float32) @ p["a"]) @ p["b"]
        return x @ p["w"] + bias

    params = {"a": shape(2, 5), "b": shape(5, 3), "w": shape(4, 3)}
    layout = hp.trace_architecture(net, params, shape(6, 4)).layout()
    assert layout == hp.Layout({name: Matrix(0, 1) for name in "abw"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p | {"b": shape(8, 3)},
            r"`b` has the shape \(8, 3\), not \(8, 2\)",
        ),
        (lambda p: {"a": p["a"]}, r"`b` of shape \(8, 2\) is missing"),
        (lambda p: p | {"c": shape(1)}, "the model has no `c` of shape"),
    ],
)
def test_params_of_another_model_name_the_first_path_that_differs(change, message):
    params = {"a": shape(4, 8), "b": shape(8, 2)}
    arch = hp.trace_architecture(lambda p, x: x @ p["a"] @ p["b"], params, shape(1, 4))
    arch.layout(params)
    with pytest.raises(ValueError, match=message):
        arch.layout(change(params))


def test_what_has_no_rule_asks_for_one():
    fn = lambda p, x: (x @ p["a"], p["temperature"])
    params = {"a": shape(4, 2), "temperature": shape()}
    arch = hp.trace_architecture(fn, params, shape(1, 4))
    with pytest.raises(ValueError, match=r"overrides=\{'temperature': None\}"):
        arch.layout()
    assert arch.layout(overrides={"temperature": None})["temperature"] is None
    with pytest.raises(ValueError, match="`overrides` names `b`"):
        arch.layout(overrides={"temperature": None, "b": None})


def descend(fn, shapes, arch, inputs, targets, steps):
    """Trains by AGD on the mean cross-entropy, and returns the losses."""
    draw = jax.jit(lambda key: hp.initialize(key, shapes, arch, scheme="agd"))
    params = draw(jax.random.key(0))
    tx = hp.agd(layout=arch.layout(params))

    def loss(params):
        logits = fn(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = tx.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses


@pytest.mark.parametrize("stacked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_agd_trains_a_gpt(stacked):
    params = gpt_params(2, stacked=stacked, width=16)
    text = jax.random.randint(jax.random.key(1), (4, 1), 0, 11) + jnp.arange(7)
    inputs, targets = text[:, :-1] % 11, text[:, 1:] % 11
    arch = hp.trace_architecture(gpt, params, inputs)
    losses = descend(gpt, params, arch, inputs, targets, steps=60)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]


class VisionTransformer(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(1, 16, (4, 4), strides=4, rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, 16)))
        self.positions = nnx.Param(jnp.zeros((1, 5, 16)))
        self.norms = nnx.List([nnx.LayerNorm(16, rngs=rngs) for _ in range(5)])
        self.attention = nnx.List(
            [nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs) for _ in range(2)]
        )
        self.up = nnx.List([nnx.Linear(16, 32, rngs=rngs) for _ in range(2)])
        self.down = nnx.List([nnx.Linear(32, 16, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x).reshape(x.shape[0], 4, 16)
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, 16))
        x = jnp.concatenate([token, x], 1) + self.positions[...]
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x))
            x = x + self.down[i](nnx.gelu(self.up[i](self.norms[2 * i + 1](x))))
        return self.head(self.norms[4](x)[:, 0])


def test_the_layout_of_a_vision_transformer():
    module = nnx.eval_shape(lambda: VisionTransformer(nnx.Rngs(0)))
    arch = hp.trace_architecture(module, shape(12, 8, 8, 1))
    layout = arch.layout(nnx.state(module, nnx.Param))
    assert layout["attention/0/out/kernel"] == Matrix((0, 1), 2, scale_divisor=2)
    assert layout["attention/1/query/kernel"] == Matrix(0, (1, 2))
    assert layout["attention/1/query/bias"] == Vector("attention/1/query/kernel")
    assert layout["patches/kernel"] == Matrix(2, 3, (0, 1))
    for name in ("token", "positions", "norms/0/scale"):
        assert layout[name] == Vector("patches/kernel")


@pytest.mark.slow
def test_agd_trains_a_vision_transformer():
    module = nnx.eval_shape(lambda: VisionTransformer(nnx.Rngs(0)))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    targets = jnp.arange(12) % 3
    images = jax.random.normal(jax.random.key(1), (12, 8, 8, 1))
    images += 2 * jax.nn.one_hot(targets, 8)[:, None, :, None]
    arch = hp.trace_architecture(module, images)
    fn = lambda params, x: nnx.merge(graph, params, rest)(x)
    losses = descend(fn, params, arch, images, targets, steps=40)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
