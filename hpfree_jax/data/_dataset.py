"""A dataset in memory: images as bytes, and how to augment and normalise them."""

import dataclasses
from collections.abc import Iterable
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from hpfree_jax._errors import UserError
from hpfree_jax.data._any_dataset import (
    HELD_OUT,
    DatasetBase,
    Examples,
    evenly_spread,
)
from hpfree_jax.data._augmentation import NO_AUGMENTATION, Augmentation
from hpfree_jax.data._batches import Batch


class ImageData(DatasetBase):
    """Images as bytes, augmented and normalised on the device."""

    mean: np.ndarray  # float32, (channels,), of the training pixels as bytes
    std: np.ndarray  # float32, (channels,), the same
    augmentation: Augmentation

    def prepare(
        self, images: ArrayLike, key: Key[Array, ""] | None = None
    ) -> jax.Array:
        """Returns a model's float32 inputs; with a key, of augmented images."""
        if key is not None:
            images = self.augmentation(key, jnp.asarray(images))
        return self.normalise(images)

    def normalise(self, images: ArrayLike) -> jax.Array:
        """Maps bytes to float32 numbers of mean 0 and variance 1 per channel."""
        return (jnp.asarray(images, jnp.float32) - self.mean) / self.std


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(ImageData):
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
    augmentation: Augmentation = NO_AUGMENTATION  # what the sources do in training
    skipped: tuple[str, ...] = ()  # one line for each split with damaged examples

    @property
    def is_resident(self) -> bool:
        """Whether the training data is small enough for the device: it is."""
        return True

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train_images.shape[1:]

    @property
    def num_train(self) -> int:
        """Training examples, the length of an epoch's order."""
        return len(self.train_labels)

    @property
    def num_test(self) -> int:
        """Test examples."""
        return len(self.test_labels)

    @property
    def train_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """What to put on the device, for :meth:`take`."""
        return self.train_images, self.train_labels

    @property
    def test_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the test data."""
        return self.test_images, self.test_labels

    def epoch_order(self, key: Key[Array, ""]) -> Int[Array, " examples"]:
        """Draws the order in which an epoch visits the training examples."""
        return jax.random.permutation(key, self.num_train)

    def test_order(self) -> Int[np.ndarray, " examples"]:
        """The order that visits every test example once."""
        return np.arange(self.num_test, dtype=np.int32)

    def take(self, arrays, index: Int[Array, " batch"]) -> Batch:
        """Gathers a batch, in a traced step, from arrays on the device."""
        images, labels = arrays
        return Batch(images[index], labels[index], jnp.ones(len(index)))

    def evaluation_examples(self, limit: int | None = None) -> Examples:
        """Returns test examples, evenly spread; all of them if the limit is None."""
        rows = evenly_spread(self.num_test, limit)
        if len(rows) == self.num_test:
            return Examples(self.test_images, self.test_labels)
        return Examples(self.test_images[rows], self.test_labels[rows])

    def evaluation_batches(
        self, batch_size: int, limit: int | None = None
    ) -> list[Batch]:
        """Returns :meth:`evaluation_examples` in batches of one shape."""
        return self.evaluation_examples(limit).batches(batch_size)

    def hold_out(self, fraction: float, seed: int) -> tuple[Self, Examples | None]:
        """Splits a random fraction off the training images.

        The test data stays, and so do the mean and the deviation that pixels are
        normalised by: those of all the training images.

        Args:
          fraction: in [0, 1); 0 holds nothing out.
          seed: of the draw; the same seed holds out the same images.

        Returns:
          The dataset without the examples held out, and these; None if there are none.

        Raises:
          UserError: if the fraction is less than one example, or leaves none.
        """
        if fraction == 0:
            return self, None
        total = self.num_train
        count = round(fraction * total)
        if not 0 < count < total:
            raise UserError(
                f"`validation_fraction` {fraction:g} holds out {count} of the {total} "
                f"training examples of {self.name}; take between {1 / total:.1g} and "
                "1, or 0 to hold out nothing"
            )
        with jax.ensure_compile_time_eval():  # also where only shapes are asked for
            key = jax.random.fold_in(jax.random.key(seed), HELD_OUT)
            order = np.asarray(jax.random.permutation(key, total))
        held_out, rest = np.sort(order[:count]), np.sort(order[count:])
        images, labels = self.train_arrays
        remaining = dataclasses.replace(
            self, train_images=images[rest], train_labels=labels[rest]
        )
        return remaining, Examples(images[held_out], labels[held_out])

    def damage(self) -> list[str]:
        """Returns a line for each split in which examples could not be read."""
        return list(self.skipped)


def pixel_statistics(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel, exact to float32.

    Counts how often each of the 256 values occurs, and so needs no copy of the images
    as floating-point numbers, and does not depend on how they are divided into blocks.

    >>> images = np.array([0, 255, 0, 255], np.uint8).reshape(1, 2, 2, 1)
    >>> print(*pixel_statistics([images]))
    [127.5] [127.5]
    """
    counts = np.sum([_count_values(images) for images in blocks], axis=0)
    values = np.arange(256.0)
    totals = counts.sum(axis=1)
    means = counts @ values / totals
    squares = (values - means[:, None]) ** 2
    std = np.sqrt((counts * squares).sum(axis=1) / totals).astype(np.float32)
    return means.astype(np.float32), np.where(std > 0, std, np.float32(1))


def _count_values(images: np.ndarray) -> np.ndarray:
    """How often each channel has each value, (channels, 256)."""
    channels = range(images.shape[-1])
    return np.stack(
        [
            np.bincount(images[..., channel].ravel(), minlength=256)
            for channel in channels
        ]
    )
