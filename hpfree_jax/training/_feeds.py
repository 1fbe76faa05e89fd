"""Where the batches of training steps come from: the device, or a stream."""

from collections.abc import Callable
from typing import Any

import jax

from hpfree_jax.data import Dataset, StreamingDataset
from hpfree_jax.training._state import Task, TrainState
from hpfree_jax.training._steps import Loss, make_stream_step, make_train_steps


class ResidentFeed:
    """Steps on data that lies on the device; the step alone says where the run is.

    Args:
      task: the static parts of the run.
      loss: the loss.
      orders: from the epoch to the order of the data, and what is held out.
    """

    stall_seconds: float | None = None  # nothing is waited for

    def __init__(self, task: Task, loss: Loss, orders: Callable[[int], tuple]):
        self._train_steps = make_train_steps(task, loss)
        dataset = task.dataset
        assert not isinstance(dataset, StreamingDataset)  # which has no arrays
        self._examples = jax.device_put(dataset.train_arrays)
        self._orders, self._steps_per_epoch = orders, task.steps_per_epoch
        self._epoch = -1
        self._order = self._held_out = None

    def compile(self, state: TrainState, step: int, num_steps: int) -> None:
        """Compiles what :meth:`train` needs; the state is donated."""
        jax.block_until_ready(self.train(state, step, num_steps))

    def train(self, state: TrainState, step: int, num_steps: int):
        """Makes steps within an epoch; returns the state and metrics of each."""
        epoch = step // self._steps_per_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._order, self._held_out = self._orders(epoch)
        return self._train_steps(
            state, self._examples, self._order, num_steps, self._held_out
        )

    def get_state(self) -> None:
        """There is nothing to store."""

    def close(self) -> None:
        """There is nothing to stop."""


class StreamFeed:
    """Steps on batches that are read while the device computes.

    Args:
      task: the static parts of the run.
      loss: the loss.
      seed: of the order of the data.
      data_state: of the stream, from a checkpoint; None begins with the first batch.

    Raises:
      UserError: if the state is of another stream.
    """

    def __init__(
        self, task: Task, loss: Loss, seed: int, data_state: dict[str, Any] | None
    ):
        dataset = task.dataset
        assert not isinstance(dataset, Dataset)  # it has no stream
        self._step = make_stream_step(task, loss)
        self._batches = dataset.train_batches(task.batch_size, seed)
        if data_state is not None:
            self._batches.set_state(data_state)

    @property
    def stall_seconds(self) -> float:
        """Time that was spent waiting for batches."""
        return self._batches.stall_seconds

    def compile(self, state: TrainState, step: int, num_steps: int) -> None:
        """Compiles what :meth:`train` needs; the state is donated."""
        place = self.get_state()
        jax.block_until_ready(self.train(state, step, num_steps))
        self._batches.set_state(place)

    def train(self, state: TrainState, step: int, num_steps: int):
        """Makes one step on the next batch; returns the state and its metrics."""
        assert num_steps == 1
        batch = next(self._batches)
        return self._step(state, batch.inputs, batch.targets)

    def get_state(self) -> dict[str, Any]:
        """The place in the stream, for a checkpoint."""
        return self._batches.get_state()

    def close(self) -> None:
        """Stops the threads that read."""
        self._batches.close()
