"""The training loop of one seed or of several at once: a generator of windows."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hpfree_jax.training._evaluation import Evaluate, make_evaluations, make_sums
from hpfree_jax.training._feeds import Feed, compile_steps, stack, take
from hpfree_jax.training._progress import Progress
from hpfree_jax.training._state import Task, TrainState
from hpfree_jax.training._steps import StepShardings, make_step


@dataclasses.dataclass(frozen=True)
class Intervals:
    """When a run is looked at, in steps; always at its end.

    Evaluations and checkpoints are made at ends of windows only.
    """

    total_steps: int
    log_every: int  # steps in a window of training metrics
    evaluate_every: int
    save_every: int | None = None  # None: never
    restart_every: int | None = None  # windows begin anew, with each epoch, say

    def ends_window(self, step: int) -> bool:
        """Whether a window of training metrics ends after this step."""
        return step == self.total_steps or self._position(step) % self.log_every == 0

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after this step."""
        return self._is_due(step, self.evaluate_every)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after this step."""
        return self.save_every is not None and self._is_due(step, self.save_every)

    def steps_left(self, step: int) -> int:
        """Returns how many steps may follow this one before something is due."""
        left = self.log_every - self._position(step) % self.log_every
        periods = (self.evaluate_every, self.save_every, self.restart_every)
        ends = [every - step % every for every in periods if every is not None]
        return min(left, self.total_steps - step, *ends)

    def _position(self, step: int) -> int:
        return step % self.restart_every if self.restart_every else step

    def _is_due(self, step: int, every: int) -> bool:
        at_end = step % every == 0 or step == self.total_steps
        return at_end and self.ends_window(step)


class Functions(NamedTuple):
    """The compiled functions of a task, for any seed."""

    step: Callable  # see make_step
    sums: Callable  # see make_sums


def make_functions(
    task: Task, *, num_seeds: int = 1, shardings: StepShardings | None = None
) -> Functions:
    """Returns the compiled functions of training and evaluation."""
    step = make_step(task, num_seeds=num_seeds, shardings=shardings)
    return Functions(step, make_sums(task))


@dataclasses.dataclass(frozen=True)
class Window:
    """The steps since the window before, and the state after them.

    The state is donated to the next step: it is gone once the next window is asked for.
    """

    step: int  # updates made so far
    state: TrainState  # with an axis for the seeds in front, if there are several
    metrics: np.ndarray  # float32, (seeds, steps, metrics)
    is_complete: bool  # False: the run was stopped, perhaps before the window's end
    is_evaluation_due: bool
    is_checkpoint_due: bool
    seconds_per_step: float | None  # None if no step was made
    num_timed: int  # steps that this is the mean of
    stall_seconds: float | None  # of these, waited for data; None for resident data
    data_state: list[dict[str, Any]]  # of each seed's stream, for a checkpoint
    evaluations: list[dict[str, Evaluate]]  # by seed and split

    def evaluate(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Returns one seed's loss and accuracy, by split."""
        own = take(self.state, seed, len(self.evaluations))
        return {split: find(own) for split, find in self.evaluations[seed].items()}

    def first_bad_step(self, seed: int = 0) -> int | None:
        """Returns the first step with a loss that is not finite, counted from 1."""
        bad = ~np.isfinite(self.metrics[seed, :, 0])
        if not bad.any():
            return None
        return self.step - len(bad) + 1 + int(np.argmax(bad))


def windows(
    tasks: Sequence[Task],
    states: Sequence[TrainState],
    intervals: Intervals,
    functions: Functions,
    *,
    steps_per_call: int | None = None,
    test_examples: int | None = None,
    pending: np.ndarray | None = None,
    data_state: list[dict[str, Any]] | None = None,
    shardings: StepShardings | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Generator[Window, None, None]:
    """Trains from one state a seed to the last step, and yields each window.

    Metrics stay on the device until the end of a window; only then does the host wait
    for the device. Time that passes outside the generator is not counted.

    Args:
      tasks: of the seeds, which differ in the order of the data and what is held out.
      states: where to start, all after the same step; they are donated.
      intervals: when windows end.
      functions: from :func:`make_functions`, for as many seeds.
      steps_per_call: the most steps in a compiled call. None: 1 on a CPU, where XLA
        runs convolutions in a loop slowly; elsewhere powers of two, so that few
        different numbers are compiled. A stream makes one step at a time.
      test_examples: how many to evaluate on; None: the dataset's own limit.
      pending: metrics, ``(seeds, steps, metrics)``, of the steps since the last
        window's end, from a checkpoint.
      data_state: of each seed's stream, where it continues; None: at its first batch.
      shardings: those of the functions.
      stop: asked after each call; the last window then is not complete.
      progress: told of each step.

    Raises:
      UserError: if ``data_state`` is of another stream.
    """
    progress = progress or Progress(is_quiet=True)
    evaluations = make_evaluations(tasks, functions.sums, test_examples)
    state, step = stack(states), int(states[0].step)
    rows = [] if pending is None or not pending.size else [pending]
    on_cpu = jax.default_backend() == "cpu"
    if not tasks[0].dataset.is_resident or (on_cpu and steps_per_call is None):
        steps_per_call = 1
    calls = Calls(intervals, tasks[0].steps_per_epoch, steps_per_call)
    feed = Feed(tasks, None if shardings is None else shardings.batch)

    def window(is_complete: bool) -> Window:
        return Window(
            step,
            state,
            _fetch(rows, len(tasks)),
            is_complete,
            is_complete and intervals.evaluates(step),
            is_complete and intervals.saves(step),
            *clock.read(),
            feed.get_state(),
            evaluations,
        )

    with contextlib.closing(feed):
        if data_state is not None:
            feed.set_state(data_state)
        with progress.waiting("compiling a step and trying it"):
            for num_steps in calls.sizes(step):  # before the clock starts
                compile_steps(functions.step, feed, state, step, num_steps)
        clock = _Clock(feed)
        while step < intervals.total_steps:
            num_steps = calls.size(step)
            state, metrics = functions.step(state, feed.read(step), num_steps)
            rows.append(metrics if len(tasks) > 1 else metrics[None])
            # One step ahead of the device is enough to keep it busy. With more, Ctrl-C
            # would have to wait for all of them.
            jax.block_until_ready(rows[-2:-1])
            step += num_steps
            clock.num_steps += num_steps
            progress.advance(num_steps)
            if intervals.ends_window(step):
                yield window(is_complete=True)
                rows, clock = [], _Clock(feed)
            if step < intervals.total_steps and stop():
                yield window(is_complete=False)
                break


def _fetch(rows: list, num_seeds: int) -> np.ndarray:
    if not rows:
        return np.zeros((num_seeds, 0, 1), np.float32)
    return np.concatenate(jax.device_get(rows), axis=1)


class Calls(NamedTuple):
    """How many steps each compiled call makes, none beyond a window or an epoch."""

    intervals: Intervals
    steps_per_epoch: int
    most: int | None  # None: powers of two

    def size(self, step: int) -> int:
        """Returns the number of steps in the call after this step."""
        per_epoch = self.steps_per_epoch
        room = min(self.intervals.steps_left(step), per_epoch - step % per_epoch)
        if self.most is None:
            return 1 << (room.bit_length() - 1)
        return min(self.most, room)

    def sizes(self, step: int) -> set[int]:
        """Returns all numbers of steps in the calls from this step on."""
        if self.most == 1:
            return {1} if step < self.intervals.total_steps else set()
        found = set()
        while step < self.intervals.total_steps:
            found.add(self.size(step))
            step += self.size(step)
        return found


class _Clock:
    """Measures the steps of a window, without what is done between windows."""

    def __init__(self, feed: Feed):
        self._feed, self._stalled = feed, feed.stall_seconds
        self.num_steps = 0
        self._begin = time.perf_counter()

    def read(self) -> tuple[float | None, int, float | None]:
        """Returns seconds per step, the steps they are of, and seconds of stalling."""
        seconds = time.perf_counter() - self._begin
        stalled = self._feed.stall_seconds
        if stalled is not None and self._stalled is not None:
            stalled -= self._stalled
        per_step = seconds / self.num_steps if self.num_steps else None
        return per_step, self.num_steps, stalled
