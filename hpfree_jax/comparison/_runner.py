"""Trains one method on one task from several seeds: at once, or one after another."""

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from hpfree_jax.comparison._records import TEST, TRAIN, RunRecord
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec, run_config
from hpfree_jax.data import AnyDataset
from hpfree_jax.methods import METHODS
from hpfree_jax.models import abstract_model
from hpfree_jax.training import TrainState
from hpfree_jax.training.engine import (
    Intervals,
    Task,
    Window,
    machine,
    make_functions,
    now,
    prepare,
    windows,
)

# The largest parameter, in numbers, of what gains from vmap on a CPU.
SMALL = 256 * 256


class Stopped(Exception):
    """The runs at hand were given up because the user asked for it."""


class Runner:
    """The compiled functions of one method on one task, for all seeds.

    Args:
      task: the task.
      method: the method; its grid is of no concern.
      dataset: the task's data.
      intervals: when metrics are kept.
      stop: asked between two steps whether to give up.
    """

    def __init__(
        self,
        task: TaskSpec,
        method: MethodSpec,
        dataset: AnyDataset,
        intervals: Intervals,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._spec, self._method, self._dataset = task, method, dataset
        self._intervals, self._stop = intervals, stop
        self._functions = {}  # by the number of seeds at once

    def prepare(self, seed: int) -> tuple[Task, TrainState]:
        """Returns the state before the first step, which init and seed determine."""
        config = run_config(self._spec, self._method, seed)
        return prepare(config, self._dataset, self._spec.steps)

    def check(self) -> None:
        """Raises UserError if method, model and data do not fit; computes nothing."""
        jax.eval_shape(lambda: self.prepare(0)[1])

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
        if not self._dataset.is_resident:
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
        tasks, states = zip(*map(self.prepare, seeds), strict=True)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(states[0].params))
        metrics = [_Metrics() for _ in seeds]
        seconds = self._train(tasks, states, metrics)
        return [
            RunRecord(
                run=identity,
                diverged_at=own.diverged_at,
                train=own.train,
                test=own.test,
                validation=own.validation,
                seconds_per_step=seconds / len(seeds),
                seeds_at_once=len(seeds),
                num_params=num_params,
                machine={"when": now(), **machine()},
            )
            for identity, own in zip(identities, metrics, strict=True)
        ]

    def _train(
        self,
        tasks: Sequence[Task],
        states: Sequence[TrainState],
        metrics: "list[_Metrics]",
    ) -> float:
        """Fills the metrics; returns the median time of a step, without compilation."""
        number = len(tasks)
        if number not in self._functions:
            self._functions[number] = make_functions(tasks[0], num_seeds=number)
        functions, seconds = self._functions[number], []
        found = windows(tasks, states, self._intervals, functions, stop=self._stop)
        with contextlib.closing(found):
            for window in found:
                if not window.is_complete:
                    raise Stopped
                seconds.append(window.seconds_per_step)
                for seed, own in enumerate(metrics):
                    own.add(window, seed)
                if all(own.diverged_at is not None for own in metrics):
                    break
        return statistics.median(seconds)


class _Metrics:
    """The metrics of one seed, up to where it diverges."""

    def __init__(self):
        self.train: dict[str, list[float | None]] = {name: [] for name in TRAIN}
        self.test: dict[str, list[float]] = {name: [] for name in TEST}
        self.validation: dict[str, list[float]] = {name: [] for name in TEST}
        self.diverged_at: int | None = None

    def add(self, window: Window, seed: int) -> None:
        """Adds the training metrics of a window, and evaluations if they are due."""
        if self.diverged_at is None:
            self.diverged_at = window.first_bad_step(seed)
        if self.diverged_at is not None:
            return
        means = window.metrics[seed].mean(0, np.float64).tolist()
        finite = [mean if math.isfinite(mean) else None for mean in means]
        self._append(self.train, window.step, *finite[: len(TRAIN) - 1])
        if not window.is_evaluation_due:
            return
        found = window.evaluate(seed)
        if not all(math.isfinite(loss) for loss, _ in found.values()):
            self.diverged_at = window.step
            return
        for split, values in found.items():
            columns = self.test if split == "test" else self.validation
            self._append(columns, window.step, *values)

    @staticmethod
    def _append(columns, *values) -> None:
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
