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


def test_an_evaluation_covers_the_examples_once_in_batches_of_one_shape():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    labels = np.arange(10, dtype=np.int32)
    statistics = np.zeros(1, "f"), np.ones(1, "f")
    data = Dataset("ten", images[:1], labels[:1], images, labels, 10, *statistics)
    batches = data.evaluation_batches(4)
    assert [batch.inputs.shape for batch in batches] == [(4, 1, 1, 1)] * 3
    weights = np.concatenate([batch.weights for batch in batches])
    targets = np.concatenate([batch.targets for batch in batches])
    assert weights.tolist() == [1] * 10 + [0, 0]
    assert targets[weights == 1].tolist() == list(range(10))
    (spread,) = data.evaluation_batches(4, limit=3)  # of one shape: that of three
    assert spread.targets.tolist() == [0, 3, 6]
