"""Batches, and endless streams of them that continue where they stopped."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from hpfree_jax._errors import UserError

END = 2**62  # more batches than there will ever be


class Batch(NamedTuple):
    """Inputs and targets of one step, on the host or on the device."""

    inputs: ArrayLike  # images: uint8, (batch, height, width, channels);
    # tokens: int32, (batch, context)
    targets: ArrayLike  # labels: int32, (batch,); next tokens: int32, (batch, context)
    weights: ArrayLike  # float32, (batch,): 1, or 0 for what only fills a test batch


class BatchStream:
    """An endless iterator of batches, prepared in threads ahead of their use.

    Batch number ``n`` is a function of ``n`` alone, whatever the threads do, so the
    state is that number, and continuing is exact. Grain runs the threads.

    Attributes:
      stall_seconds: time that ``next`` has waited, over all calls.
    """

    def __init__(
        self, read: Callable[[int], Batch], identity: dict[str, Any], workers: int
    ):
        """Makes a stream that begins with batch 0.

        Args:
          read: from the number of a batch to the batch; called from the threads.
          identity: what the batches depend on besides their number (JSON values).
          workers: threads; each prepares one batch at a time.
        """
        self.stall_seconds = 0.0
        self._read, self._identity, self._workers = read, identity, workers
        self._iterator: Any = None
        self._start(0)

    def _start(self, number: int) -> None:
        """Begins with a batch; the threads start with the first `next`."""
        import grain

        self.close()
        # The numbers themselves are the source: it has no epochs.
        numbers = grain.MapDataset.range(number, END)
        options = grain.ReadOptions(
            num_threads=self._workers, prefetch_buffer_size=self._workers + 1
        )
        self._next = number
        self._iterator = iter(numbers.map(self._read).to_iter_dataset(options))

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        batch = next(self._iterator)
        self.stall_seconds += time.perf_counter() - begin
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the state after the last batch returned; it can be stored as JSON."""
        return {"next_batch": self._next, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues with the batch after the one at which ``state`` was taken.

        Raises:
          UserError: if the state is of another stream, whose batches differ.
        """
        expected = {"next_batch", *self._identity}
        if not isinstance(state, dict) or state.keys() != expected:
            raise UserError(
                f"a state of the data must have {', '.join(sorted(expected))}; got "
                f"{state}; it comes from another version of hpfree_jax"
            )
        for name, value in self._identity.items():
            if state[name] != value:
                raise UserError(
                    f"the stored state of the data is of `{name}` {state[name]}, this "
                    f"run has {value}: its batches would differ; use {state[name]}"
                )
        number = state["next_batch"]
        if not isinstance(number, int) or not 0 <= number < END:
            raise UserError(f"`next_batch` must be an integer from 0 on, got {number}")
        self._start(number)

    def close(self) -> None:
        """Stops the threads."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


class Shard(NamedTuple):
    """The part of every batch that one process reads."""

    index: int = 0
    count: int = 1

    def of(self, batch_size: int) -> int:
        """Returns this process's share of a batch; raises UserError if unequal."""
        if batch_size < 1 or batch_size % self.count:
            raise UserError(
                f"`batch_size` {batch_size} must be a positive multiple of the "
                f"{self.count} processes that share it"
            )
        return batch_size // self.count


def choose_shard(process: tuple[int, int] | None) -> Shard:
    """Returns the shard of a process, given as its number and how many there are."""
    index, count = process or (jax.process_index(), jax.process_count())
    if not 0 <= index < count:
        raise UserError(
            "`process` must be a number from 0 on and how many there are, got "
            f"{process}"
        )
    return Shard(index, count)


def choose_workers(workers: int | None) -> int:
    """Returns the number of threads; None: one for each core, at most 16."""
    if workers is None:
        try:
            cores = len(os.sched_getaffinity(0))  # those that this process may use
        except AttributeError:  # not Linux
            cores = os.cpu_count() or 1
        return min(cores, 16)
    if workers < 1:
        raise UserError(f"`workers` must be 1 or more, got {workers}")
    return workers


class ShuffledOrder:
    """The order of the training examples, shuffled in every epoch.

    Grain's own shuffle computes one index at a time in Python (25 microseconds
    measured, half as long as it takes to read a CIFAR image); this one draws the
    permutation of a whole epoch when its first batch is read.
    """

    def __init__(self, num_examples: int, batch_size: int, shard: Shard, seed: int):
        self._share = shard.of(batch_size)
        if batch_size > num_examples:
            raise UserError(
                f"`batch_size` {batch_size} is larger than the {num_examples} training "
                f"examples; take at most {num_examples}"
            )
        if not 0 <= seed < 2**32:
            raise UserError(f"`seed` must lie in [0, 2**32), got {seed}")
        self._num_examples, self._batch_size = num_examples, batch_size
        self._shard, self._seed = shard, seed
        self._latest: tuple[int, np.ndarray] | None = None  # epoch and permutation

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; what is left over waits an epoch."""
        return self._num_examples // self._batch_size

    def indices(self, number: int) -> list[int]:
        """Returns what this process reads of batch ``number`` (from 0)."""
        epoch, step = divmod(number, self.steps_per_epoch)
        latest = self._latest  # one read: other threads may replace it meanwhile
        if latest is None or latest[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            latest = self._latest = (epoch, rng.permutation(self._num_examples))
        start = step * self._batch_size + self._shard.index * self._share
        return latest[1][start : start + self._share].tolist()
