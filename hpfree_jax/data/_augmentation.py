"""Augmentation of images on the device: pad and crop, and flip.

Both are pure functions of a key and of bytes, so that a resumed run, whose keys are
folded from the step, sees the very images it would have seen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8


class Augmentation(NamedTuple):
    """Random augmentation of the training images.

    >>> images = jnp.ones((2, 4, 4, 1), jnp.uint8)
    >>> Augmentation(padding=1, flip=True)(jax.random.key(0), images).shape
    (2, 4, 4, 1)
    """

    padding: int = 0  # black pixels on every side before a crop of the first size
    flip: bool = False  # left and right change places in half of the images

    def __call__(
        self, key: Key[Array, ""], images: UInt8[Array, "batch height width channels"]
    ) -> UInt8[Array, "batch height width channels"]:
        """Returns images of the same shape; each has its own draw."""
        crop_key, flip_key = jax.random.split(key)
        if self.padding:
            images = pad_and_crop(crop_key, images, self.padding)
        if self.flip:
            images = flip_half(flip_key, images)
        return images


NO_AUGMENTATION = Augmentation()


def pad_and_crop(
    key: Key[Array, ""], images: UInt8[Array, "batch height width channels"], pad: int
) -> UInt8[Array, "batch height width channels"]:
    """Shifts each image by up to ``pad`` pixels each way; zeros come in at the edge.

    The zeros are of raw pixels (black), as in torchvision's ``RandomCrop(padding=pad)``
    before the normalisation. Row and column of the crop are uniform on 0 ... 2 * pad.
    """
    batch, height, width, channels = images.shape
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * pad + 1)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop(image, offset):
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def flip_half(
    key: Key[Array, ""], images: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """Mirrors each image with probability 1/2, left to right."""
    chosen = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)
