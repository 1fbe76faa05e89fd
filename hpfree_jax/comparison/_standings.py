"""Who stands where in a suite: final scores, steps to target, time of a step."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence

from hpfree_jax.comparison._specs import TaskSpec
from hpfree_jax.comparison._suite_runs import Found, SuiteRun

# Whose steps the time of a step is compared to, if it took part.
TIMED_AGAINST = "adamw"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean over seeds less another one, in the sense in which more is better."""

    value: float
    standard_error: float  # NaN with less than two seeds on a side


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method did on a task, over the seeds."""

    task: TaskSpec
    runs: Sequence[SuiteRun]  # one per seed, at the rate chosen from a grid; or none

    @property
    def num_failed(self) -> int:
        """How many seeds diverged."""
        return sum(run.diverged_at is not None for run in self.runs)

    @property
    def scores(self) -> list[float]:
        """The test accuracy of each seed that finished; of a text the test loss."""
        name = "test_loss" if self.task.is_text else "test_accuracy"
        scores = [getattr(run, name) for run in self.runs]
        return [score for score in scores if score is not None]

    @property
    def order(self) -> tuple[float, float]:
        """Sorts the best first: by the seeds that failed, then by the mean score."""
        if not self.scores:
            return math.inf, 0.0
        sign = 1 if self.task.is_text else -1
        return self.num_failed, sign * statistics.fmean(self.scores)

    @property
    def steps_ratio(self) -> float:
        """Steps to the target over those of the task; the median over the seeds.

        Infinite if at least half of the seeds do not get there, NaN without runs.
        """
        if not self.runs:
            return math.nan
        ratios = [
            math.inf if run.steps_to_target is None else run.steps_to_target / run.steps
            for run in self.runs
        ]
        return statistics.median(ratios)

    @property
    def seconds_per_step(self) -> float:
        """The median over the seeds; NaN without runs."""
        seconds = [run.seconds_per_step for run in self.runs]
        return statistics.median(seconds) if seconds else math.nan

    def minus(self, other: "Outcome") -> Difference:
        """How much better this mean score is, of the seeds that finished.

        The standard error is that of two independent means,
        sqrt(s1^2 / n1 + s2^2 / n2): methods may differ in their initial weights.
        """
        sign = -1 if self.task.is_text else 1
        both = (self.scores, other.scores)
        if not all(both):
            return Difference(math.nan, math.nan)
        first, second = map(statistics.fmean, both)
        error = math.nan
        if min(map(len, both)) > 1:
            error = math.sqrt(sum(statistics.variance(x) / len(x) for x in both))
        return Difference(sign * (first - second), error)


def geometric_mean(ratios: Sequence[float]) -> float:
    """The geometric mean of those that are finite; NaN without any."""
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    return statistics.geometric_mean(finite) if finite else math.nan


def timed_runs(found: Sequence[Found], tasks: Sequence[TaskSpec]) -> list[SuiteRun]:
    """The records as rows, timed to the tuned Adam's final loss if it is among them."""
    standings = Standings([run.row(None) for run in found], tasks)
    targets = {task.name: standings.target(task) for task in standings.tasks}
    return [run.row(targets[run.task]) for run in found]


class Standings:
    """The results of methods on the tasks of a suite.

    Args:
      runs: the rows, of all rates of a grid.
      tasks: of the suite.
      time_ratios: the time of a step over :data:`TIMED_AGAINST`'s, by task and method;
        None takes the times of the runs, which other work may have disturbed.

    Attributes:
      tasks: those that have runs.
      methods: their labels, the best mean rank first.
      reference: the label of the tuned Adam, with a cosine and a grid of rates; or
        None.
    """

    def __init__(
        self,
        runs: Sequence[SuiteRun],
        tasks: Sequence[TaskSpec],
        time_ratios: Mapping[tuple[str, str], float] | None = None,
    ):
        self._time_ratios = time_ratios
        present = {run.task for run in runs}
        self.tasks = [task for task in tasks if task.name in present]
        self._runs = runs
        self._first = {run.method: run for run in runs}
        self._outcomes = {
            (task.name, method): self._choose(task, method)
            for task in self.tasks
            for method in self._first
        }
        self.reference = next(filter(self._is_reference, self._first), None)
        self._mean_ranks = self._rank()
        self.methods = sorted(self._first, key=lambda name: self._mean_ranks[name])

    def outcome(self, task: TaskSpec, method: str) -> Outcome:
        """The result of a method on a task."""
        return self._outcomes[task.name, method]

    def mean_rank(self, method: str) -> float:
        """The mean over the tasks of the rank among all methods; 1 is the best.

        On a task, methods are in the order of their mean score; one of whose seeds
        more failed comes after all others. Equal ones share the mean of their ranks.
        Infinite if the method did not run on all tasks.
        """
        return self._mean_ranks[method]

    def is_tuned(self, method: str) -> bool:
        """Whether its rate was chosen for each task."""
        return self._first[method].learning_rate is not None

    def num_failed(self, method: str) -> int:
        """How many runs diverged, on all tasks."""
        return sum(self.outcome(task, method).num_failed for task in self.tasks)

    def target(self, task: TaskSpec) -> float | None:
        """The tuned Adam's final training loss; None without one, or if it failed.

        The median over its seeds, of two middle values the higher: so at least half of
        its own seeds get there, as in :func:`find_target`.
        """
        if self.reference is None:
            return None
        runs = self.outcome(task, self.reference).runs
        losses = [
            math.inf if run.train_loss is None else run.train_loss for run in runs
        ]
        target = statistics.median_high(losses) if losses else math.inf
        return target if math.isfinite(target) else None

    def time_ratio(self, task: TaskSpec, method: str) -> float:
        """The time of a step over that of AdamW; else of the tuned Adam; else NaN."""
        if self._time_ratios is not None:
            return self._time_ratios.get((task.name, method), math.nan)
        for base in (TIMED_AGAINST, self.reference):
            if base in self._first:
                own = self.outcome(task, method).seconds_per_step
                return own / self.outcome(task, base).seconds_per_step
        return math.nan

    def best_other(self, task: TaskSpec, method: str) -> Outcome | None:
        """The best result on a task of another method with one setting for all."""
        others = [
            self.outcome(task, name)
            for name in self.methods
            if name != method and not self.is_tuned(name)
        ]
        others = [outcome for outcome in others if outcome.scores]
        return min(others, key=lambda outcome: outcome.order, default=None)

    def _choose(self, task: TaskSpec, method: str) -> Outcome:
        """The runs on a task, at the rate of the best mean final test score.

        That favours a tuned method, which is judged by the same score.
        """
        by_rate: dict[float | None, list[SuiteRun]] = {}
        for run in self._runs:
            if (run.task, run.method) == (task.name, method):
                by_rate.setdefault(run.learning_rate, []).append(run)
        outcomes = [
            Outcome(task, sorted(own, key=lambda run: run.seed))
            for own in by_rate.values()
        ]
        return min(outcomes, key=lambda x: x.order, default=Outcome(task, []))

    def _is_reference(self, method: str) -> bool:
        first = self._first[method]
        schedule = json.loads(first.settings).get("schedule")
        return self.is_tuned(method) and (first.optimizer, schedule) == (
            *("adam", "cosine"),
        )

    def _rank(self) -> Mapping[str, float]:
        ranks: dict[str, list[float]] = {method: [] for method in self._first}
        for task in self.tasks:
            orders = {name: self.outcome(task, name).order for name in ranks}
            for name, order in orders.items():
                before = sum(other < order for other in orders.values())
                equal = sum(other == order for other in orders.values())
                has_run = bool(self.outcome(task, name).runs)
                rank = before + (equal + 1) / 2 if has_run else math.inf
                ranks[name].append(rank)
        return {name: statistics.fmean(own) for name, own in ranks.items()}
