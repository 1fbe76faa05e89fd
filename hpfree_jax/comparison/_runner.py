"""Trains one method on one task from several seeds: at once, or one after another."""

import contextlib
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpfree_jax.comparison._feeds import ResidentFeed, StreamFeed, make_steps, stack
from hpfree_jax.comparison._records import TEST, TRAIN, RunRecord
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec, run_config
from hpfree_jax.data import StreamingDataset
from hpfree_jax.data._held_out import (
    AnyDataset,
    evaluation_examples,
    is_resident,
)
from hpfree_jax.models import abstract_model
from hpfree_jax.training import LOSSES, METHODS
from hpfree_jax.training._run_directory import versions
from hpfree_jax.training._state import Task, TrainState, start
from hpfree_jax.training._steps import (
    evaluation_batch_size,
    make_evaluate,
    make_stream_evaluate,
)

Evaluate = Callable[[TrainState], tuple[float, float]]  # to loss and accuracy

# The largest parameter, in numbers, of what gains from vmap on a CPU.
SMALL = 256 * 256


class Stopped(Exception):
    """The runs at hand were given up because the user asked for it."""


class Rhythm(NamedTuple):
    """How often a run is looked at, in steps."""

    log_every: int  # a line of training metrics
    evaluate_every: int  # a line of test metrics


class Runner:
    """The compiled functions of one method on one task, for all seeds.

    Args:
      task: the task.
      method: the method; its grid is of no concern.
      dataset: the task's data.
      rhythm: how often metrics are kept.
      stop: asked between two lines whether to give up.
    """

    def __init__(
        self,
        task: TaskSpec,
        method: MethodSpec,
        dataset: AnyDataset,
        rhythm: Rhythm,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._spec, self._method, self._dataset = task, method, dataset
        self._rhythm, self._stop = rhythm, stop
        self._loss = LOSSES[task.loss]
        self._functions: dict[bool, Any] = {}  # by whether seeds are stacked

    def start(self, seed: int) -> tuple[Task, TrainState]:
        """The state before the first step: a function of task, init and seed."""
        config = run_config(self._spec, self._method, seed)
        return start(config, self._dataset, self._spec.steps)

    def check(self) -> None:
        """Raises UserError if method, model and data do not fit; computes nothing."""
        jax.eval_shape(lambda: self.start(0)[1])

    def gains_from_vmap(self) -> bool:
        """Whether several seeds at once are faster than one after another.

        So it is on an accelerator, and on a CPU for matrices that are small. There a
        product in a batch of products is slower than a large one by itself, and those
        of a text have a row for each of its tokens; and of convolutions with different
        weights, ``vmap`` makes grouped ones. Data that is read while training would be
        read for all seeds at the same time.
        """
        if METHODS[self._method.method].is_costly_in_vmap:
            return False
        if not is_resident(self._dataset):
            return False
        if jax.default_backend() != "cpu":
            return True
        if self._spec.is_text:
            return False
        model = abstract_model(
            self._spec.model,
            self._dataset.input_shape,
            self._dataset.num_classes,
            self._spec.model_settings,
        )
        modules = (module for _, module in nnx.iter_modules(model))
        sizes = (leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        return max(sizes, default=0) <= SMALL and not any(
            isinstance(module, nnx.Conv) for module in modules
        )

    def run(self, seeds: Sequence[int], identities: Sequence[dict]) -> list[RunRecord]:
        """Trains from all the seeds at once; one seed is trained without ``vmap``.

        Args:
          seeds: of the weights and of the order of the data.
          identities: what goes into the records as ``run``.

        Raises:
          UserError: if the task or the method is impossible.
          Stopped: if the user does not want to wait for the end.
        """
        tasks, states = zip(*map(self.start, seeds), strict=True)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(states[0].params))
        lines = [_Lines() for _ in seeds]
        seconds = self._train(tasks, states, seeds, lines)
        return [
            RunRecord(
                run=identity,
                diverged_at=line.diverged_at,
                train=line.train,
                test=line.test,
                validation=line.validation,
                seconds_per_step=seconds / len(seeds),
                seeds_at_once=len(seeds),
                num_params=num_params,
                machine={"when": now(), **machine()},
            )
            for identity, line in zip(identities, lines, strict=True)
        ]

    def _train(
        self,
        tasks: Sequence[Task],
        states: Sequence[TrainState],
        seeds: Sequence[int],
        lines: "list[_Lines]",
    ) -> float:
        """Fills the lines; returns the median time of a step, without compilation."""
        stacked = len(tasks) > 1
        steps, test = self._compiled(tasks[0], stacked)
        validation = [self._validation(task) for task in tasks]
        feed = self._feed(tasks, steps, seeds)
        state = stack(states) if stacked else states[0]
        step, window, seconds = 0, [], []
        with contextlib.closing(feed):
            calls = list(self._calls(tasks[0].steps_per_epoch))
            for num_steps in set(calls):  # compiled on a copy before the clock starts
                feed.compile(jax.tree.map(jnp.copy, state), num_steps)
            begin = time.perf_counter()
            for num_steps in calls:
                state, metrics = feed.train(state, step, num_steps)
                window.append(metrics)
                step += num_steps
                if not self._ends_line(step, self._rhythm.log_every):
                    continue
                values = np.concatenate(jax.device_get(window), axis=-2)
                seconds.append((time.perf_counter() - begin) / values.shape[-2])
                rows = values if stacked else [values]
                for line, own in zip(lines, rows, strict=True):
                    line.add_train(step, own)
                if self._ends_line(step, self._rhythm.evaluate_every):
                    for index, line in enumerate(lines):
                        own = _take(state, index) if stacked else state
                        line.evaluate(step, own, test, validation[index])
                if all(line.diverged_at is not None for line in lines):
                    break
                if self._stop():
                    raise Stopped
                window, begin = [], time.perf_counter()
        return statistics.median(seconds)

    @staticmethod
    def _feed(
        tasks: Sequence[Task], steps: Callable, seeds: Sequence[int]
    ) -> ResidentFeed | StreamFeed:
        if is_resident(tasks[0].dataset):
            return ResidentFeed(tasks, steps)
        return StreamFeed(tasks, steps, seeds)

    def _ends_line(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._spec.steps

    def _calls(self, per_epoch: int) -> Iterator[int]:
        """How many steps each compiled call makes, none beyond a line or an epoch.

        One on a CPU, where XLA runs convolutions in a loop slowly, and of data that is
        read while training. Elsewhere powers of two, so that few different numbers are
        compiled.
        """
        by_one = jax.default_backend() == "cpu" or not is_resident(self._dataset)
        step, ends = 0, (*self._rhythm, per_epoch)
        while step < self._spec.steps:
            room = min(self._spec.steps - step, *(end - step % end for end in ends))
            num_steps = 1 << (room.bit_length() - 1)
            if by_one:
                num_steps = 1
            yield num_steps
            step += num_steps

    def _compiled(self, task: Task, stacked: bool):
        if stacked not in self._functions:
            steps = make_steps(task, self._loss, stacked)
            self._functions[stacked] = (steps, self._test(task))
        return self._functions[stacked]

    def _test(self, task: Task) -> Evaluate:
        data, size = task.dataset, evaluation_batch_size(task)
        if isinstance(data, StreamingDataset):
            return make_stream_evaluate(task, self._loss, size)
        return make_evaluate(task, self._loss, evaluation_examples(data), size)

    def _validation(self, task: Task) -> Evaluate | None:
        """On what is held out, which differs from seed to seed."""
        if task.held_out is None:
            return None
        size = evaluation_batch_size(task)
        return make_evaluate(task, self._loss, task.held_out, size)


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(" ", "seconds")


def machine() -> dict[str, Any]:
    """What a result can depend on besides the configuration."""
    return {
        "versions": versions(),
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
        "device": jax.devices()[0].device_kind,
    }


class _Lines:
    """The metrics of one seed, up to where it diverges."""

    def __init__(self):
        self.train: dict[str, list[float | None]] = {name: [] for name in TRAIN}
        self.test: dict[str, list[float]] = {name: [] for name in TEST}
        self.validation: dict[str, list[float]] = {name: [] for name in TEST}
        self.diverged_at: int | None = None

    def add_train(self, step: int, values: np.ndarray) -> None:
        """Adds a line from the metrics of the steps up to this one, a row each."""
        if self.diverged_at is not None:
            return
        bad = ~np.isfinite(values[:, 0])
        if bad.any():
            self.diverged_at = step - len(values) + 1 + int(np.argmax(bad))
            return
        means = values.mean(0, np.float64).tolist()
        finite = [mean if np.isfinite(mean) else None for mean in means]
        self._append(self.train, step, *finite[: len(TRAIN) - 1])

    def evaluate(
        self, step: int, state: TrainState, test: Evaluate, validation: Evaluate | None
    ) -> None:
        """Adds a line of the test data, and one of what is held out."""
        if self.diverged_at is not None:
            return
        measured = [(self.test, test(state))]
        if validation is not None:
            measured.append((self.validation, validation(state)))
        if not all(np.isfinite(loss) for _, (loss, _) in measured):
            self.diverged_at = step
            return
        for lines, values in measured:
            self._append(lines, step, *values)

    @staticmethod
    def _append(lines, *values) -> None:
        for column, value in zip(lines.values(), values, strict=True):
            column.append(value)


def _take(tree, index: int):
    return jax.tree.map(lambda leaf: leaf[index], tree)
