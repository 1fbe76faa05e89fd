"""What each training step reads: data on the device, or batches from a stream."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from hpfree_jax.training._state import Task
from hpfree_jax.training._steps import ResidentData, make_orders


class Feed:
    """The training data of one seed, or of several at once.

    Resident data lies on the device, and the step alone says where a run is. Any other
    is a stream of batches, which are read while the device computes.

    Args:
      tasks: of the seeds.
      batch_sharding: of a stream's global batch, of which each process reads its part;
        None: the batch goes to the default device.
    """

    def __init__(self, tasks: Sequence[Task], batch_sharding: Sharding | None = None):
        self._sharding, self._streams = batch_sharding, []
        if not tasks[0].dataset.is_resident:
            self._streams = [
                task.dataset.train_batches(task.batch_size, task.seed) for task in tasks
            ]
            return
        # Seeds differ in the order of the data, and in the data if some is held out.
        different = tasks if tasks[0].held_out is not None else tasks[:1]
        arrays = [jax.device_put(task.dataset.train_arrays) for task in different]
        self._examples = stack(arrays)
        self._orders = [make_orders(task) for task in tasks]
        self._steps_per_epoch = tasks[0].steps_per_epoch
        self._epoch, self._data = -1, None

    @property
    def stall_seconds(self) -> float | None:
        """Time that was spent waiting for streams; None for resident data."""
        if not self._streams:
            return None
        return sum(stream.stall_seconds for stream in self._streams)

    def read(self, step: int) -> Any:
        """Returns what :func:`make_step` takes for the step after this one.

        That is the data of its epoch, or inputs and targets of the next batch.
        """
        if self._streams:
            return self._next_batch()
        epoch = step // self._steps_per_epoch
        if epoch != self._epoch:
            orders = stack([order(epoch) for order in self._orders])
            self._epoch, self._data = epoch, ResidentData(self._examples, *orders)
        return self._data

    def _next_batch(self) -> tuple:
        batch = stack([next(stream)[:2] for stream in self._streams])
        if self._sharding is None:
            return batch
        place = jax.make_array_from_process_local_data
        return jax.tree.map(lambda x: place(self._sharding, x), batch)

    def get_state(self) -> list[dict[str, Any]]:
        """Returns the place in each stream, for a checkpoint."""
        return [stream.get_state() for stream in self._streams]

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes to a place; raises UserError if it is of another stream."""
        for stream, state in zip(self._streams, states, strict=True):
            stream.set_state(state)

    def close(self) -> None:
        """Stops the threads that read."""
        for stream in self._streams:
            stream.close()


def compile_steps(step: Callable, feed: Feed, state: Any, first: int, num_steps: int):
    """Compiles and tries steps on a copy of the state; the feed stays where it is."""
    place = feed.get_state()
    copy = jax.tree.map(lambda x: x.copy(), state)
    jax.block_until_ready(step(copy, feed.read(first), num_steps))
    feed.set_state(place)


def stack(trees: Sequence[Any]) -> Any:
    """Returns arrays with an axis for the seeds in front; one tree as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take(tree: Any, index: int, num_seeds: int) -> Any:
    """Returns the arrays of one seed; the reverse of :func:`stack`."""
    return tree if num_seeds == 1 else jax.tree.map(lambda leaf: leaf[index], tree)
