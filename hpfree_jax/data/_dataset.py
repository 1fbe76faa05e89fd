"""A dataset in memory: images as bytes, and how to normalise them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of both splits.

    Images stay bytes, on the device too: a quarter of the memory of float32. The
    training step turns them into numbers of about unit root mean square, which AGD
    assumes of its inputs.
    """

    name: str
    train_images: np.ndarray  # uint8, (examples, height, width, channels)
    train_labels: np.ndarray  # int32, (examples,)
    test_images: np.ndarray  # like the training images
    test_labels: np.ndarray
    num_classes: int
    mean: np.ndarray  # float32, (channels,), of the training pixels as bytes
    std: np.ndarray  # float32, (channels,), the same

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train_images.shape[1:]

    def normalise(self, images: ArrayLike) -> jax.Array:
        """Maps bytes to float32 numbers of mean 0 and variance 1 per channel."""
        return (jnp.asarray(images, jnp.float32) - self.mean) / self.std


def pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel, exact to float32.

    Counts how often each of the 256 values occurs, and so needs no copy of the images
    as floating-point numbers.

    >>> images = np.array([0, 255, 0, 255], np.uint8).reshape(1, 2, 2, 1)
    >>> pixel_statistics(images)
    (array([127.5], dtype=float32), array([127.5], dtype=float32))
    """
    values = np.arange(256.0)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = counts @ values / counts.sum()
        means.append(mean)
        stds.append(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
    std = np.array(stds, np.float32)
    return np.array(means, np.float32), np.where(std > 0, std, np.float32(1))
