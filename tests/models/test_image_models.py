"""Residual, wide, dense and efficient networks against NumPy, and their options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import (
    MODELS,
    DenseNetBC,
    EfficientNetB0,
    PreActResNet,
    ResNet,
    WideResNet,
    abstract_model,
)
from hpfree_jax.models._blocks import run_blocks
from hpfree_jax.models._checks import check_image
from hpfree_jax.models._efficientnet import UNIFORM_FAN_OUT
from hpfree_jax.models._image_layers import ImageLayers, NormConv
from tests.models.abstract import filled

# --- against NumPy --------------------------------------------------------------------


def conv(kernel, x, stride=1, groups=1):
    """A convolution padded by half of its size, in float64."""
    size, margin = kernel.shape[0], kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = range(0, x.shape[1] - size + 1, stride)
    columns = range(0, x.shape[2] - size + 1, stride)
    inputs = x.shape[-1] // groups
    outputs = kernel.shape[-1] // groups
    y = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = x[:, row : row + size, column : column + size]
            for g in range(groups):
                into = slice(g * outputs, (g + 1) * outputs)
                part = window[..., g * inputs : (g + 1) * inputs]
                y[:, i, j, into] = np.tensordot(part, kernel[..., into], 3)
    return y


def norm(p, x, epsilon=1e-5):
    return (x - p["mean"]) / np.sqrt(p["var"] + epsilon) * p["scale"] + p["bias"]


def relu(x):
    return np.maximum(x, 0)


def silu(x):
    return x / (1 + np.exp(-x))


def conv_norm(p, x, stride=1, act=relu, groups=1, epsilon=1e-5):
    return act(norm(p["norm"], conv(p["conv"]["kernel"], x, stride, groups), epsilon))


def norm_conv(p, x, stride=1):
    return conv(p["conv"]["kernel"], relu(norm(p["norm"], x)), stride)


def numpy_resnet_block(p, x, stride):
    same = lambda z: z
    skip = conv_norm(p["shortcut"], x, stride, same) if "shortcut" in p else x
    layers = p["layers"]
    if len(layers) == 2:
        y = conv_norm(layers[0], x, stride)
        return relu(skip + conv_norm(layers[1], y, act=same))
    y = conv_norm(layers[1], conv_norm(layers[0], x), stride)
    return relu(skip + conv_norm(layers[2], y, act=same))


def numpy_preact_block(p, x, stride):
    active = relu(norm(p["norm"], x))
    skip = x
    if "shortcut" in p:
        skip = conv(p["shortcut"]["kernel"], active, stride)
    if len(p["layers"]) == 1:
        y = conv(p["conv"]["kernel"], active, stride)
        return skip + norm_conv(p["layers"][0], y)
    y = norm_conv(p["layers"][0], conv(p["conv"]["kernel"], active), stride)
    return skip + norm_conv(p["layers"][1], y)


def numpy_dense_block(p, x, stride):
    if "bottleneck" not in p:
        y = norm_conv(p["conv"], x)
        n, height, width, features = y.shape
        return y.reshape(n, height // 2, 2, width // 2, 2, features).mean((2, 4))
    y = norm_conv(p["conv"], norm_conv(p["bottleneck"], x))
    return np.concatenate([x, y], -1)


def numpy_efficient_block(p, x, stride):
    y, settings = x, {"epsilon": 1e-3, "act": silu}
    if "expand" in p:
        y = conv_norm(p["expand"], x, **settings)
    y = conv_norm(p["depthwise"], y, stride, groups=y.shape[-1], **settings)
    squeeze, excite = p["gate"]["squeeze"], p["gate"]["excite"]
    hidden = silu(y.mean((1, 2)) @ squeeze["kernel"] + squeeze["bias"])
    gate = 1 / (1 + np.exp(-(hidden @ excite["kernel"] + excite["bias"])))
    y = y * gate[:, None, None]
    y = conv_norm(p["project"], y, act=lambda z: z, epsilon=1e-3)
    return x + y if y.shape == x.shape else y


def arrays(module):
    pure = nnx.to_pure_dict(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pure)


def _small(model, *sizes, **fixed):
    def make(dtype=None, param_dtype=jnp.float32, remat=False):
        chosen = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat}
        return model(*sizes, in_channels=2, **fixed, **chosen, rngs=nnx.Rngs(0))

    return make


SMALL = {
    "resnet": _small(ResNet, 18, 3, channels=2),
    "resnet with bottlenecks": _small(ResNet, 50, 3, channels=2),
    "preact_resnet": _small(PreActResNet, 18, 3, channels=2),
    "preact_resnet with bottlenecks": _small(PreActResNet, 50, 3, channels=2),
    "wide_resnet": _small(WideResNet, 10, 1, 3, dropout=0.5),
    "densenet_bc": _small(DenseNetBC, 10, 2, 3),
    "efficientnet_b0": _small(EfficientNetB0, 3),
}
# Reference, and of some blocks: place, (stride, channels in).
BLOCKS = {
    "resnet": (numpy_resnet_block, {2: (2, 2), 3: (1, 4)}),
    "resnet with bottlenecks": (numpy_resnet_block, {3: (2, 8), 4: (1, 16)}),
    "preact_resnet": (numpy_preact_block, {2: (2, 2), 3: (1, 4)}),
    "preact_resnet with bottlenecks": (numpy_preact_block, {3: (2, 8), 4: (1, 16)}),
    "wide_resnet": (numpy_preact_block, {0: (1, 16), 1: (2, 16)}),
    "densenet_bc": (numpy_dense_block, {0: (1, 4), 1: (1, 6)}),  # 1: a transition
    "efficientnet_b0": (
        numpy_efficient_block,
        {0: (1, 32), 1: (2, 16), 2: (1, 24)},
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_match_numpy(name):
    reference, blocks = BLOCKS[name]
    model = filled(SMALL[name])
    for place, (stride, d_in) in blocks.items():
        block = model.blocks[place]
        x = np.random.default_rng(1).normal(size=(2, 4, 4, d_in)).astype(np.float32)
        outputs = jax.jit(block.__call__)(jnp.asarray(x))
        expected = reference(arrays(block), x.astype(np.float64), stride)
        np.testing.assert_allclose(outputs, expected, rtol=2e-4, atol=2e-4)


def test_a_whole_network_matches_numpy():
    model = filled(lambda: WideResNet(10, 1, 3, 2, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    outputs = jax.jit(model.__call__)(jnp.asarray(x))
    p = arrays(model)
    y = conv(p["stem"]["kernel"], x.astype(np.float64))
    for place, stride in enumerate((1, 2, 2)):
        y = numpy_preact_block(p["blocks"][place], y, stride)
    y = relu(norm(p["final_norm"], y)).mean((1, 2))
    expected = y @ p["classifier"]["kernel"] + p["classifier"]["bias"]
    np.testing.assert_allclose(outputs, expected, rtol=2e-4, atol=2e-4)


# --- initial weights, precision, memory -----------------------------------------------


def test_initial_weights_have_the_scales_of_the_sources():
    make = ImageLayers(nnx.Rngs(0))
    kernel = np.asarray(make.conv(32, 128, 3).kernel[...])
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    assert abs(kernel).max() > 3 * kernel.std()  # not truncated
    depthwise = np.asarray(make.conv(240, 240, 3, groups=240).kernel[...])
    assert depthwise.std() == pytest.approx(np.sqrt(2 / 9), rel=0.05)
    readout = np.asarray(make.dense(128, 1000).kernel[...])
    assert 0.99 < abs(readout).max() * np.sqrt(128) <= 1
    by_outputs = make.dense(1000, 50, kernel_init=UNIFORM_FAN_OUT)
    assert 0.99 < abs(np.asarray(by_outputs.kernel[...])).max() * np.sqrt(50) <= 1


@pytest.mark.parametrize("name", BLOCKS)
def test_dtypes_of_parameters_and_computation_are_chosen_apart(name):
    model = filled(lambda: SMALL[name](jnp.bfloat16, jnp.float16))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float16)}
    images = jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float32)
    assert jax.eval_shape(model.__call__, images).dtype == jnp.bfloat16


def test_bfloat16_is_near_float32():
    make = lambda dtype: filled(lambda: SMALL["wide_resnet"](dtype, jnp.float32))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 2))
    precise, rough = (jax.jit(make(d).__call__)(images) for d in (None, jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    difference = jnp.linalg.norm(precise - rough.astype(jnp.float32))
    assert 0 < difference < 0.05 * jnp.linalg.norm(precise)


def loss_and_more(model, images):
    """Loss, gradients and running statistics, computed as the trainer does."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def compute(params, rest):
        def loss(params):
            merged = nnx.merge(graph, params, rest, copy=True)
            value = jnp.mean(merged(images) ** 2)
            return value, nnx.state(merged, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return compute(params, rest)


class Blocks(nnx.Module):
    """Two blocks, and nothing else, to be compiled quickly."""

    def __init__(self, remat):
        make = ImageLayers(nnx.Rngs(0))
        self.blocks = nnx.List([NormConv(make, 2, 2, 3) for _ in range(2)])
        self.remat = remat

    def __call__(self, x):
        return run_blocks(self.blocks, x, remat=self.remat)


def check_remat(make, images):
    def trained(remat):
        model = filled(lambda: make(remat))
        model.train()
        return loss_and_more(model, images)

    plain, again = trained(False), trained(True)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jaxpr = str(jax.make_jaxpr(lambda m, x: m(x))(filled(lambda: make(True)), images))
    assert "checkpoint" in jaxpr or "remat" in jaxpr
    statistics = jax.tree.leaves(plain[0][1])
    before = jax.tree.leaves(nnx.state(filled(lambda: make(True)), nnx.BatchStat))
    assert not np.allclose(statistics[0], before[0])


def test_remat_changes_neither_gradients_nor_statistics():
    check_remat(Blocks, jax.random.normal(jax.random.key(0), (4, 4, 4, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "wide_resnet", "densenet_bc"])
def test_remat_of_whole_networks(name):
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 2))
    check_remat(lambda remat: SMALL[name](None, jnp.float32, remat), images)


def test_remat_does_not_change_the_graph():
    images = jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float32)
    make = SMALL["densenet_bc"]
    traced = [
        hp.trace_architecture(filled(lambda r=r: make(None, jnp.float32, r)), images)
        for r in (False, True)
    ]
    assert traced[0] == traced[1]


def test_drop_path_leaves_out_whole_examples():
    model = filled(lambda: EfficientNetB0(3, drop_path=0.8, rngs=nnx.Rngs(0)))
    rates = [block.drop_path.rate for block in model.blocks]
    np.testing.assert_allclose(rates, 0.8 * np.arange(16) / 16, atol=1e-9)
    drop = model.blocks[14].drop_path
    drop.deterministic = False
    x = np.asarray(drop(jnp.ones((64, 2, 2, 3))))
    kept = x.max((1, 2, 3))
    np.testing.assert_array_equal(kept, x.min((1, 2, 3)))
    np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - drop.rate)], rtol=1e-6)


# --- layouts and bad sizes ------------------------------------------------------------


def test_the_layout_of_a_residual_network_by_hand():
    model = abstract_model("resnet18_cifar")
    arch = hp.trace_architecture(model, MODELS["resnet18_cifar"].example())
    layout = arch.layout(nnx.state(model, nnx.Param))
    kernel = lambda divisor: hp.Matrix(2, 3, (0, 1), (), scale_divisor=divisor)
    matrices = layout.matrices
    assert matrices["blocks/0/layers/0/conv/kernel"] == kernel(1)
    assert matrices["blocks/1/layers/1/conv/kernel"] == kernel(2)  # blocks in a stage
    assert matrices["classifier/kernel"] == hp.Matrix(0, 1)
    vectors = layout.vectors
    for name in ("scale", "bias"):
        norm_path = f"blocks/2/shortcut/norm/{name}"
        assert vectors[norm_path].leader == "blocks/2/shortcut/conv/kernel"


def test_the_layers_of_a_gate_and_of_a_depthwise_convolution():
    model = abstract_model("efficientnet_b0")
    arch = hp.trace_architecture(model, MODELS["efficientnet_b0"].example())
    layers = {layer.path: layer for layer in arch.layers}
    depthwise = layers["blocks/1/depthwise/conv/kernel"]
    assert (depthwise.fan_in, depthwise.kernel_size) == (9, (3, 3))
    squeeze = layers["blocks/1/gate/squeeze/kernel"]
    assert (squeeze.fan_in, squeeze.fan_out) == (96, 4)
    project = layers["blocks/2/project/conv/kernel"]
    assert (project.in_degree, layers["blocks/1/project/conv/kernel"].in_degree) == (
        2,
        1,
    )


@pytest.mark.parametrize("make", [ResNet, PreActResNet])
def test_a_depth_that_there_is_not_is_named(make):
    with pytest.raises(ValueError, match="one of 18, 34, 50, 101, 152, got 20"):
        make(20, 10, rngs=nnx.Rngs(0))


def test_images_are_checked():
    check_image((4, 5, 3), smallest=4)
    with pytest.raises(ValueError, match=r"images must be .* got the shape \(4, 4\)"):
        check_image((4, 4))
    model = filled(SMALL["densenet_bc"])
    with pytest.raises(ValueError, match=r"4 x 4 pixels, got the shape \(8, 3, 3\)"):
        model(jnp.zeros((1, 8, 3, 3)))
