import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.data import Augmentation
from hpfree_jax.data._augmentation import flip_half, pad_and_crop
from hpfree_jax.data._dataset import Dataset

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3), np.uint8)


def shifted(image, row, column, pad):
    """Written without padding: pixel (y, x) is that of (y + row - pad, ...), or 0."""
    result = np.zeros_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        source_y, source_x = y + row - pad, x + column - pad
        if 0 <= source_y < image.shape[0] and 0 <= source_x < image.shape[1]:
            result[y, x] = image[source_y, source_x]
    return result


def test_pad_and_crop_is_that_of_numpy_with_the_same_draws(images):
    result = jax.jit(pad_and_crop, static_argnums=2)(KEY, images, 4)
    assert result.dtype == jnp.uint8
    offsets = np.asarray(jax.random.randint(KEY, (64, 2), 0, 9))
    expected = [
        shifted(image, row, column, 4)
        for image, (row, column) in zip(images, offsets, strict=True)
    ]
    np.testing.assert_array_equal(result, expected)


def test_every_shift_is_as_likely(images):
    keys = jax.random.split(KEY, 40)
    marker = np.zeros((64, 3, 3, 1), np.uint8)
    marker[:, 1, 1] = 1  # the crop shows the shift, all nine of pad 1
    moved = jax.vmap(lambda key: pad_and_crop(key, marker, 1))(keys)
    counts = np.asarray(moved, np.int64).sum((0, 1, 4))
    assert counts.sum() == 40 * 64
    # 284 of each expected; five standard deviations of a binomial count are 80.
    np.testing.assert_allclose(counts, 2560 / 9, atol=80)


def test_half_of_the_images_are_mirrored(images):
    result = np.asarray(flip_half(KEY, images))
    is_mirrored = [(r == i[:, ::-1]).all() for r, i in zip(result, images, strict=True)]
    is_kept = [(r == i).all() for r, i in zip(result, images, strict=True)]
    np.testing.assert_array_equal(is_mirrored, np.logical_not(is_kept))
    assert 12 <= sum(is_mirrored) <= 52  # 32 and five standard deviations


def test_what_is_not_asked_for_is_not_done(images):
    np.testing.assert_array_equal(Augmentation()(KEY, images), images)
    crop_key, flip_key = jax.random.split(KEY)
    both = Augmentation(padding=2, flip=True)(KEY, images)
    by_hand = flip_half(flip_key, pad_and_crop(crop_key, images, 2))
    np.testing.assert_array_equal(both, by_hand)


def test_zeros_come_in_before_the_normalisation(images):
    """As in torchvision: the edge is black, which is not 0 after the normalisation."""
    labels = np.zeros(64, np.int32)
    mean, std = (
        np.array([100, 110, 120], np.float32),
        np.array([50, 60, 70], np.float32),
    )
    dataset = Dataset(
        *("test", images, labels, images, labels, 10, mean, std),
        augmentation=Augmentation(padding=8),
    )
    out = np.asarray(dataset.prepare(images, KEY))
    edge = (np.zeros(3) - mean) / std
    assert np.isclose(out, edge).all(axis=-1).any()
    assert not np.isclose(out, 0).all(axis=-1).any()
    plain = dataset.prepare(images)
    np.testing.assert_allclose(plain, (images - mean) / std, rtol=1e-6, atol=1e-6)
