"""What every dataset answers about itself, whatever its kind."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, Self

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from hpfree_jax._errors import UserError
from hpfree_jax.data._batches import Batch, BatchStream

HELD_OUT = 2  # folded into the seed's key to draw what is held out


class Examples(NamedTuple):
    """Inputs and targets that are kept in memory, on the host or on the device."""

    # Images, uint8, (examples, height, width, channels);
    # or windows of tokens, int32, (examples, context).
    images: Int[Array | np.ndarray, " examples *shape"]
    # Classes, int32, (examples,); or the next tokens, int32, (examples, context).
    labels: Int[Array | np.ndarray, " examples *context"]

    def batches(self, batch_size: int) -> list[Batch]:
        """Returns batches of one shape; the last is padded with weight 0.

        >>> examples = Examples(np.ones((3, 2), np.int32), np.ones(3, np.int32))
        >>> print(*(batch.weights for batch in examples.batches(2)))
        [1. 1.] [1. 0.]
        """
        total = len(self.labels)
        size = min(batch_size, total)
        margin = -total % size
        arrays = (*self, np.ones(total, np.float32))
        padded = [np.pad(x, [(0, margin)] + [(0, 0)] * (x.ndim - 1)) for x in arrays]
        starts = range(0, total + margin, size)
        return [Batch(*(x[start : start + size] for x in padded)) for start in starts]


class AnyDataset(Protocol):
    """What training and evaluation need of a dataset.

    :class:`Dataset`, :class:`StreamingDataset` and :class:`TokenDataset` have it. A
    class of your own may, too: derive it from :class:`DatasetBase`, which answers for
    what a kind of dataset does not have, and register it with
    :func:`register_dataset`.

    Training reads a *resident* dataset on the device: ``train_arrays`` are put there
    once, ``epoch_order(key)`` draws an order, and ``take(arrays, index)`` gathers a
    batch within the compiled step. Any other dataset is read on the host by
    ``train_batches``, while the device computes.
    """

    @property
    def name(self) -> str:
        """Name of the dataset, for messages."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes; for texts, the vocabulary size."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        ...

    @property
    def num_train(self) -> int:
        """Training examples in an epoch, the length of its order."""
        ...

    @property
    def num_test(self) -> int:
        """Test examples."""
        ...

    @property
    def is_text(self) -> bool:
        """Whether an example is a window of tokens, each with its own target."""
        ...

    @property
    def is_resident(self) -> bool:
        """Whether the training data is small enough for the device."""
        ...

    @property
    def is_evaluation_resident(self) -> bool:
        """Whether the batches of an evaluation may stay on the device."""
        ...

    @property
    def train_arrays(self) -> Any:
        """What to put on the device, for :meth:`take`."""
        ...

    def epoch_order(self, key: Key[Array, ""]) -> Int[Array, " examples"]:
        """Draws the order in which an epoch visits the training examples."""
        ...

    def take(self, arrays: Any, index: Int[Array, " batch"]) -> Batch:
        """Gathers a batch, in a traced step, from arrays on the device."""
        ...

    def train_batches(self, batch_size: int, seed: int) -> BatchStream:
        """Returns an endless stream of shuffled batches."""
        ...

    def prepare(
        self, inputs: ArrayLike, /, key: Key[Array, ""] | None = None
    ) -> jax.Array:
        """Returns a model's inputs; with a key, augmented ones."""
        ...

    def evaluation_batches(
        self, batch_size: int, limit: int | None = None
    ) -> Iterable[Batch]:
        """Returns the batches of one evaluation on the test data, all of one shape.

        Args:
          batch_size: examples in a batch; fewer if there are fewer in all.
          limit: examples to evaluate on; None: all, or the dataset's own limit.
        """
        ...

    def hold_out(self, fraction: float, seed: int) -> tuple[Self, Examples | None]:
        """Splits off a fraction of the training data; see :meth:`DatasetBase.hold_out`.

        Args:
          fraction: in [0, 1); 0 holds nothing out.
          seed: of the draw; the same seed holds out the same examples.

        Returns:
          The dataset without the examples held out, and these; None if there are none.

        Raises:
          UserError: if the dataset cannot be split so.
        """
        ...

    def damage(self) -> list[str]:
        """Returns a line for each split in which examples could not be read so far."""
        ...

    def with_context(self, context: int) -> Self:
        """Returns the dataset with windows of another length, on the same arrays."""
        ...


class DatasetBase:
    """The answers of a dataset that has no arrays, no stream, no text and no damage.

    A subclass adds name, classes, shape and numbers of examples, ``prepare``,
    ``evaluation_batches``, and either ``is_resident``, ``train_arrays``,
    ``epoch_order`` and ``take``, or ``train_batches``; see :class:`AnyDataset`.
    """

    name: str

    @property
    def is_text(self) -> bool:
        """Whether an example is a window of tokens, each with its own target."""
        return False

    @property
    def is_resident(self) -> bool:
        """Whether the training data is small enough for the device."""
        return False

    @property
    def is_evaluation_resident(self) -> bool:
        """Whether the batches of an evaluation may stay on the device."""
        return self.is_resident

    @property
    def train_arrays(self) -> Any:
        """What to put on the device; raises UserError, as there is nothing."""
        raise UserError(
            f"dataset {self.name} is read while training and has no arrays; use "
            "`train_batches`"
        )

    def epoch_order(self, key: Key[Array, ""]) -> Int[Array, " examples"]:
        """Raises UserError: there are no arrays to order."""
        del key
        return self.train_arrays

    def take(self, arrays: Any, index: Int[Array, " batch"]) -> Batch:
        """Raises UserError: there are no arrays to take from."""
        del arrays, index
        return self.train_arrays

    def train_batches(self, batch_size: int, seed: int) -> BatchStream:
        """Raises UserError: there is no stream."""
        del batch_size, seed
        raise UserError(
            f"dataset {self.name} is not read while training; use `train_arrays`"
        )

    def hold_out(self, fraction: float, seed: int) -> tuple[Self, Examples | None]:
        """Returns the dataset itself; raises UserError unless the fraction is 0."""
        del seed
        if fraction:
            raise UserError(
                f"`validation_fraction` {fraction:g}: dataset {self.name} is read "
                "while training, and nothing of it can be held out; take 0"
            )
        return self, None

    def damage(self) -> list[str]:
        """Returns a line for each split in which examples could not be read: none."""
        return []

    def with_context(self, context: int) -> Self:
        """Returns the dataset as it is: a context is the length of a text's window."""
        del context
        return self


def evenly_spread(total: int, limit: int | None) -> np.ndarray:
    """Returns the numbers of ``limit`` of ``total`` examples; None: of all.

    >>> evenly_spread(19, 3)
    array([ 0,  6, 12])
    """
    rows = np.arange(total)
    return rows if limit is None or limit >= total else rows[:limit] * total // limit
