"""Where the steps of one seed, or of several at once, take their batches from."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hpfree_jax.data import Dataset, StreamingDataset
from hpfree_jax.data._held_out import is_resident
from hpfree_jax.training._loop import make_orders
from hpfree_jax.training._state import Task, TrainState
from hpfree_jax.training._steps import Loss, make_stream_step, make_train_steps


class ResidentFeed:
    """Steps on data that lies on the device.

    Args:
      tasks: of the seeds, which differ in the order of the data and what is held out.
      train_steps: from :func:`make_steps`, for as many seeds.
    """

    def __init__(self, tasks: Sequence[Task], train_steps: Callable):
        self._train_steps = train_steps
        self._examples = _examples(tasks)
        orders = [make_orders(task) for task in tasks]
        self._orders = orders[0]
        if len(tasks) > 1:
            self._orders = lambda epoch: stack([order(epoch) for order in orders])
        self._steps_per_epoch = tasks[0].steps_per_epoch
        self._epoch, self._order, self._held_out = -1, None, None

    def compile(self, state: TrainState, num_steps: int) -> None:
        """Compiles what :meth:`train` needs; the state is donated."""
        jax.block_until_ready(self.train(state, 0, num_steps))

    def train(self, state: TrainState, step: int, num_steps: int):
        """Makes steps within an epoch; returns the state and metrics of each."""
        epoch = step // self._steps_per_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._order, self._held_out = self._orders(epoch)
        return self._train_steps(
            state, self._examples, self._order, num_steps, self._held_out
        )

    def close(self) -> None:
        """There is nothing to stop."""


class StreamFeed:
    """Steps on batches that are read while the device computes, one step at a time.

    Args:
      tasks: of the seeds.
      step: from :func:`make_steps`, for as many seeds.
      seeds: of the order of the data.
    """

    def __init__(self, tasks: Sequence[Task], step: Callable, seeds: Sequence[int]):
        self._step = step
        self._streams = []
        for task, seed in zip(tasks, seeds, strict=True):
            dataset = task.dataset
            assert not isinstance(dataset, Dataset)  # it has no stream
            self._streams.append(dataset.train_batches(task.batch_size, seed))

    def compile(self, state: TrainState, num_steps: int) -> None:
        """Compiles what :meth:`train` needs; the state is donated."""
        places = [stream.get_state() for stream in self._streams]
        jax.block_until_ready(self.train(state, 0, num_steps))
        for stream, place in zip(self._streams, places, strict=True):
            stream.set_state(place)

    def train(self, state: TrainState, step: int, num_steps: int):
        """Makes one step on the next batches; returns the state and its metrics."""
        assert num_steps == 1
        batches = [next(stream) for stream in self._streams]
        batch = batches[0] if len(batches) == 1 else stack(batches)
        return self._step(state, batch.inputs, batch.targets)

    def close(self) -> None:
        """Stops the threads that read."""
        for stream in self._streams:
            stream.close()


def make_steps(task: Task, loss: Loss, stacked: bool) -> Callable:
    """Returns the jitted steps of one seed, or of several whose states are stacked."""
    if not is_resident(task.dataset):
        step = make_stream_step(task, loss)
        return jax.jit(jax.vmap(step), donate_argnums=0) if stacked else step
    train_steps = make_train_steps(task, loss)
    if not stacked:
        return train_steps
    axes = (0, None if task.held_out is None else 0, 0, 0)

    def steps(states, examples, orders, num_steps, held_out):
        step = lambda state, examples, order, held_out: train_steps(
            state, examples, order, num_steps, held_out
        )
        return jax.vmap(step, in_axes=axes)(states, examples, orders, held_out)

    return jax.jit(steps, static_argnums=3, donate_argnums=0)


def stack(trees: Sequence[Any]) -> Any:
    """One tree of the arrays of several, with an axis for the seeds in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _examples(tasks: Sequence[Task]) -> Any:
    """The training data on the device; stacked where seeds hold out different parts."""
    if tasks[0].held_out is None:
        tasks = tasks[:1]
    data = [
        jax.device_put(task.dataset.train_arrays)
        for task in tasks
        if not isinstance(task.dataset, StreamingDataset)  # which is no resident
    ]
    return stack(data) if len(tasks) > 1 else data[0]
