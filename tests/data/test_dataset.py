import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.data._dataset import Dataset, pixel_statistics


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 4, 4, 3), np.uint8)
    images[..., 1] //= 8
    images[..., 2] = 7  # a channel that never changes
    return images


def test_statistics_match_numpy(images):
    mean, std = pixel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2), np.float64), rtol=1e-6)
    expected = images.std((0, 1, 2), np.float64)
    np.testing.assert_allclose(std[:2], expected[:2], rtol=1e-6)
    assert std[2] == 1  # nothing to divide by
    assert mean.dtype == std.dtype == np.float32


def test_normalised_channels_have_mean_0_and_variance_1(images):
    labels = np.zeros(50, np.int32)
    mean, std = pixel_statistics(images)
    dataset = Dataset("test", images, labels, images, labels, 2, mean, std)
    x = jax.jit(dataset.normalise)(jnp.asarray(images))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose((x**2).mean((0, 1, 2)), [1, 1, 0], atol=1e-5)
    assert dataset.input_shape == (4, 4, 3)
