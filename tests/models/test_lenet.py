import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpfree_jax.models import LeNet5


def numpy_lenet(params, image):
    """The forward pass for one 32 x 32 image, written out in float64."""

    def array(path):
        layer, key = path.split("/")
        return np.asarray(params[layer][key][...], np.float64)

    squash = lambda z: 1.7159 * np.tanh(2 * z / 3)
    x = image.astype(np.float64)
    for layer in ("conv1", "conv2"):
        kernel, bias = array(f"{layer}/kernel"), array(f"{layer}/bias")
        size = x.shape[0] - 4
        z = np.zeros((size, size, kernel.shape[-1]))
        for i in range(size):
            for j in range(size):
                window = x[i : i + 5, j : j + 5]
                z[i, j] = np.tensordot(window, kernel, 3) + bias
        half = size // 2
        x = squash(z).reshape(half, 2, half, 2, -1).mean((1, 3))
    x = x.ravel()
    for layer in ("dense1", "dense2", "dense3"):
        z = x @ array(f"{layer}/kernel") + array(f"{layer}/bias")
        x = z if layer == "dense3" else squash(z)
    return x


@pytest.mark.parametrize(("bias", "expected"), [(True, 61_706), (False, 61_470)])
def test_parameter_counts(bias, expected):
    # Without biases: 61,706 - (6 + 16 + 120 + 84 + 10) = 61,470.
    state = nnx.state(LeNet5(10, bias=bias, rngs=nnx.Rngs(0)), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == expected


def test_outputs_match_numpy_and_small_images_are_centred():
    model = LeNet5(4, in_channels=2, rngs=nnx.Rngs(0))
    model.dense3.bias[...] = jnp.arange(4.0)
    image = np.random.default_rng(0).normal(size=(8, 27, 2)).astype(np.float32)
    padded = np.pad(image, ((12, 12), (2, 3), (0, 0)))
    expected = numpy_lenet(nnx.state(model), padded)
    outputs = jax.jit(model)(jnp.asarray(image[None]))
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(33, 32, 1), (32, 33, 1), (32, 32, 3)])
def test_an_image_that_does_not_fit_is_described(shape):
    model = LeNet5(10, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"at most 32 x 32 .* got \d+ x \d+ x \d"):
        model(jnp.zeros((1, *shape)))
