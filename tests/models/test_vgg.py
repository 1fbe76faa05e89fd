import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import VGG

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def abstract(depth, channels=64, num_classes=10, in_channels=3, **settings):
    make = lambda: VGG(
        depth, num_classes, in_channels, channels, rngs=nnx.Rngs(0), **settings
    )
    model = nnx.eval_shape(make)
    model.eval()
    return model


def num_params(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(11, 9_231_114), (13, 9_416_010), (16, 14_728_266), (19, 20_040_522)],
)
def test_parameter_counts_are_the_published_ones(depth, expected):
    # VGG-11, kernels 3 * 3 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 256 + 256 * 512
    # + 3 * 512 * 512) = 9,217,728, biases 2,752, normalisation 5,504, readout 5,130.
    assert num_params(abstract(depth)) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bias": False}, 9_231_114 - 2752 - 10),
        ({"affine": False}, 9_231_114 - 5504),
        # A quarter of all kernels but the first, of which it is half.
        ({"channels": 32}, (9_217_728 - 1728) // 4 + 864 + 1376 + 2752 + 2570),
    ],
)
def test_switches_remove_what_they_name(settings, expected):
    assert num_params(abstract(11, **settings)) == expected


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_it_is_one_path_of_the_papers_depth_less_two_dense_layers(depth):
    arch = hp.trace_architecture(abstract(depth, channels=4), IMAGES)
    assert arch.path_depths == {depth - 2: 1}


def numpy_vgg(model, x):
    """VGG-11 in evaluation mode for one image, written out in float64."""

    def array(variable):
        return np.asarray(variable[...], np.float64)

    for stage in model.stages:
        for layer in stage:
            kernel, (height, width, _) = array(layer.conv.kernel), x.shape
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            z = np.zeros((height, width, kernel.shape[-1])) + array(layer.conv.bias)
            for i in range(3):
                for j in range(3):
                    z += padded[i : i + height, j : j + width] @ kernel[i, j]
            norm = layer.norm
            z = (z - array(norm.mean)) / np.sqrt(array(norm.var) + 1e-5)
            x = np.maximum(0, z * array(norm.scale) + array(norm.bias))
        height, width, _ = x.shape
        windows = [
            [x[i : i + 2, j : j + 2].max((0, 1)) for j in range(0, width, 2)]
            for i in range(0, height, 2)
        ]
        x = np.array(windows)
    readout = model.classifier
    return x.mean((0, 1)) @ array(readout.kernel) + array(readout.bias)


def test_outputs_match_numpy_where_sizes_are_odd_and_pixels_are_left():
    generator = np.random.default_rng(0)
    model = VGG(11, 3, in_channels=1, channels=1, rngs=nnx.Rngs(0))
    model.eval()
    state = jax.tree.map(  # variances stay positive
        lambda leaf: jnp.asarray(generator.uniform(0.1, 1.0, leaf.shape), leaf.dtype),
        nnx.state(model, (nnx.Param, nnx.BatchStat)),
    )
    # Positive kernels alone would leave every ReLU open.
    for path, leaf in nnx.to_flat_state(state):
        if path[-1] == "kernel":
            leaf[...] = leaf[...] - 0.5
    nnx.update(model, state)
    image = generator.normal(size=(28, 40, 1)).astype(np.float32)
    expected = numpy_vgg(model, image.astype(np.float64))
    assert np.ptp(expected) > 0.1
    outputs = jax.jit(model)(jnp.asarray(image[None]))[0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_it_learns_statistics_in_training_mode():
    model = VGG(11, 3, channels=1, rngs=nnx.Rngs(0))
    norm = model.stages[0][0].norm
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    assert nnx.jit(lambda model, x: model(x))(model, images).shape == (4, 3)
    assert not np.array_equal(norm.mean[...], jnp.zeros(1))


def test_dtypes_of_computation_and_parameters():
    def run(images):
        dtypes = {"dtype": jnp.bfloat16, "param_dtype": jnp.float16}
        model = VGG(11, 10, channels=2, rngs=nnx.Rngs(0), **dtypes)
        params = nnx.state(model, nnx.Param)
        return model(images), params

    outputs, params = jax.eval_shape(run, IMAGES)
    assert outputs.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float16")}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"depth": 12}, r"`depth` must be one of 11, 13, 16, 19, got 12"),
        ({"channels": 0}, "`channels` must be at least 1, got 0"),
        ({"num_classes": 0}, "`num_classes` must be at least 1, got 0"),
        ({"in_channels": 0}, "`in_channels` must be at least 1, got 0"),
    ],
)
def test_bad_sizes_are_named(argument, message):
    with pytest.raises(ValueError, match=message):
        VGG(**{"depth": 11, "num_classes": 10} | argument, rngs=nnx.Rngs(0))
