import math

import cv2
import numpy as np
import pytest
from PIL import Image

from hpfree_jax.data._crops import (
    random_box,
    random_resized_crop,
    resize,
    resized_centre,
)
from tests.data.conftest import photograph


def test_random_boxes_cover_the_ranges_of_torchvision():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(400, 500, rng) for _ in range(3000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 400).all()
    assert (left + width <= 500).all()
    share, ratio = height * width / 200_000, width / height
    assert 0.079 < share.min() < 0.09
    assert share.max() <= 1
    assert share.max() > 0.95
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    # Of small boxes, which always fit, the logarithm of the ratio is symmetric.
    small = share < 0.4
    assert abs(np.log(ratio[small]).mean()) < 5 * math.log(4 / 3) / math.sqrt(
        small.sum()
    )
    assert (top == 0).any()
    assert (left + width == 500).any()


@pytest.mark.parametrize(
    ("shape", "box"),
    [((10, 1000), (0, 493, 10, 13)), ((1000, 9), (494, 0, 12, 9))],
)
def test_the_centre_is_taken_where_no_draw_fits(shape, box):
    """By hand: 10 * 4/3 = 13 columns, (1000 - 13) // 2 = 493; 9 / (3/4) = 12 rows."""
    assert random_box(*shape, np.random.default_rng(0)) == box


def test_a_crop_of_the_whole_image_is_the_resized_image():
    class LargestDraw:
        uniform = staticmethod(lambda low, high: high if low == 0.08 else 0.0)
        integers = staticmethod(lambda high: 0)

    image = photograph(0, 64, 64)
    crop = random_resized_crop(image, 32, LargestDraw())
    np.testing.assert_array_equal(crop, resize(image, 32, 32))


def test_shrinking_averages_every_pixel():
    image = np.array([[0, 2], [4, 6]], np.uint8)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(resize(image, 1, 1), np.full((1, 1, 3), 3))


@pytest.mark.parametrize("shape", [(375, 500), (300, 260), (100, 150)])
def test_resizing_is_close_to_pillow_with_which_the_sources_resize(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5)
    expected = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
    difference = lambda other: np.std(other.astype(float) - np.asarray(expected))
    ours = difference(resize(image, 224, 224))
    assert ours < 2.1
    if min(shape) > 224:
        assert ours < difference(cv2.resize(image, (224, 224)))  # bilinear of OpenCV


@pytest.mark.parametrize("shape", [(300, 401), (401, 300), (256, 256), (100, 90)])
def test_the_centre_is_that_of_resize_256_and_crop_224(shape):
    image = photograph(1, *shape)
    height, width = shape
    short = min(shape)
    size = (256 * width // short, 256 * height // short)
    whole = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = np.asarray(whole)[top : top + 224, left : left + 224].astype(int)
    assert np.abs(resized_centre(image, 224) - expected).mean() < 1
