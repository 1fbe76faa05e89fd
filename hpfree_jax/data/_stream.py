"""Datasets of images that are too large for the device: read while training."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from hpfree_jax.data._augmentation import Augmentation
from hpfree_jax.data._batches import (
    Batch,
    BatchStream,
    ShuffledOrder,
    choose_shard,
    choose_workers,
)
from hpfree_jax.data._crops import random_resized_crop, resized_centre
from hpfree_jax.data._dataset import ImageData
from hpfree_jax.data._records import Example, Records


@dataclasses.dataclass(frozen=True, eq=False)
class StreamingDataset(ImageData):
    """Images that are read, decoded and cropped on the host while a model trains.

    Batches hold bytes; :meth:`prepare` augments and normalises them on the device,
    in the training step, as for a :class:`Dataset`.
    """

    name: str
    train: Records
    test: Records
    input_shape: tuple[int, int, int]  # of one image of a batch
    num_classes: int
    mean: np.ndarray  # float32, (channels,), of the training pixels as bytes
    std: np.ndarray  # float32, (channels,), the same
    augmentation: Augmentation  # on the device
    crops: bool  # images of any size: random crops for training, centres for tests

    @property
    def num_train(self) -> int:
        """Training examples."""
        return len(self.train)

    @property
    def num_test(self) -> int:
        """Test examples."""
        return len(self.test)

    def evaluation_batches(
        self, batch_size: int, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yields the first test examples, in whole batches; all if the limit is None.

        Every evaluation reads them again.
        """
        num_batches = None if limit is None else -(-limit // batch_size)
        return itertools.islice(self.test_batches(batch_size), num_batches)

    def damage(self) -> list[str]:
        """Returns a line for each split in which examples could not be read so far."""
        reports = (records.report() for records in (self.train, self.test))
        return [report for report in reports if report]

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        *,
        workers: int | None = None,
        process: tuple[int, int] | None = None,
    ) -> BatchStream:
        """Returns an endless stream of shuffled batches.

        A damaged example is skipped: the next readable one takes its place, so that
        shapes stay, and :attr:`train` counts it.

        Args:
          batch_size: examples in a step, over all processes.
          seed: of the order and of the crops.
          workers: threads that read; None: one for each core, at most 16.
          process: this process's number and how many there are, each reading its own
            part of every batch; None asks JAX.

        Raises:
          UserError: if an argument is impossible.
        """
        shard = choose_shard(process)
        order = ShuffledOrder(self.num_train, batch_size, shard, seed)
        size = self.input_shape[0]

        def read(number: int) -> Batch:
            indices = order.indices(number)
            found = self.train.read(indices)
            examples = [
                self.train.read_or_replace(index) if example is None else example
                for index, example in zip(indices, found, strict=True)
            ]
            if self.crops:
                rng = np.random.default_rng([seed, 1, number, shard.index])
                crop = lambda image: random_resized_crop(image, size, rng)
                return self._collect(examples, crop)
            return self._collect(examples)

        identity = {
            "dataset": self.train.name,
            "num_examples": self.num_train,
            "batch_size": batch_size,
            "seed": seed,
            "processes": shard.count,
        }
        return BatchStream(read, identity, choose_workers(workers))

    def test_batches(
        self,
        batch_size: int,
        *,
        workers: int | None = None,
        process: tuple[int, int] | None = None,
    ) -> Iterator[Batch]:
        """Yields every test example once, as many batches in every process.

        The last batch is filled up with examples of weight 0; a damaged example has
        weight 0, too, and :attr:`test` counts it.
        """
        shard = choose_shard(process)
        share = shard.of(batch_size)
        num_batches = -(-self.num_test // batch_size)
        size = self.input_shape[0]
        crop = (lambda image: resized_centre(image, size)) if self.crops else None

        def read(number: int) -> Batch:
            start = number * batch_size + shard.index * share
            present = range(start, min(start + share, self.num_test))
            examples = self.test.read(present) if present else []
            examples += [None] * (share - len(examples))
            return self._collect(examples, crop)

        stream = BatchStream(read, {}, choose_workers(workers))
        try:
            for _ in range(num_batches):
                yield next(stream)
        finally:
            stream.close()

    def _collect(
        self,
        examples: list[Example] | list[Example | None],
        crop: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Batch:
        images = np.zeros((len(examples), *self.input_shape), np.uint8)
        labels = np.zeros(len(examples), np.int32)
        weights = np.zeros(len(examples), np.float32)
        for place, example in enumerate(examples):
            if example is not None:
                images[place] = crop(example.image) if crop else example.image
                labels[place], weights[place] = example.label, 1
        return Batch(images, labels, weights)
