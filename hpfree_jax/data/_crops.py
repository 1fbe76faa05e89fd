"""Crops of photographs of any size, on the host: those of ImageNet's sources."""

import math

import numpy as np

from hpfree_jax.data._codec import opencv

SCALE = (0.08, 1.0)  # share of the image's area that a random crop covers
RATIO = (3 / 4, 4 / 3)  # width / height of a random crop
ATTEMPTS = 10  # draws before the centre is taken


def random_box(
    height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws ``(top, left, height, width)`` as torchvision's ``RandomResizedCrop``.

    The area is uniform in :data:`SCALE` of the image's, the logarithm of the ratio
    uniform in that of :data:`RATIO`, the place uniform. If no draw of
    :data:`ATTEMPTS` fits into the image, the box is the largest in its centre whose
    ratio is allowed.
    """
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            return top, left, h, w
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
    image: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns a random box of an image, resized to ``size`` x ``size``."""
    top, left, height, width = random_box(image.shape[0], image.shape[1], rng)
    return resize(image[top : top + height, left : left + width], size, size)


def resized_centre(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the centre, ``size`` x ``size``, after a resize for evaluation.

    The shorter side becomes 8/7 of the size first (256 for 224), as the sources do.
    """
    height, width = image.shape[:2]
    shorter = round(size * 8 / 7)
    factor = shorter / min(height, width)
    image = resize(
        image, max(shorter, int(height * factor)), max(shorter, int(width * factor))
    )
    top = round((image.shape[0] - size) / 2)
    left = round((image.shape[1] - size) / 2)
    return image[top : top + size, left : left + size]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes with a bilinear filter that averages where it shrinks.

    The sources use Pillow's, which is as wide as the pixels it makes. OpenCV's
    bilinear filter leaves pixels out where it shrinks, so there its area filter,
    which does not, takes its place.

    Colours are turned around on the way in and out: OpenCV decodes blue first, so that
    what comes in is a view, which it would copy.
    """
    cv2 = opencv("resizing photographs")
    shrinks = height < image.shape[0] and width < image.shape[1]
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image[..., ::-1], (width, height), interpolation=filter_)[
        ..., ::-1
    ]
