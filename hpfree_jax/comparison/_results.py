"""The results of a comparison: final values, chosen rates, times to a target loss.

One model of results serves ``hpfree compare``, its suites and their leaderboard; what
chooses the rate of a grid, and what sets the target loss, are its arguments.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._plan import Plan
from hpfree_jax.comparison._profile import performance_ratios
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec

# The methods that set the target of a comparison: the first that takes part.
BASELINES = ("adam", "adamw")

# What can choose the rate of a grid for a user, and the final value of a run for it.
CHOICES = {"train": "final_loss", "validation": "final_validation_loss"}

# The label of the method whose steps the time of a step is compared to.
TIMED_AGAINST = "adamw"


class Run(Protocol):
    """A finished run: a :class:`RunRecord`, or what has as much of it as results need.

    Its final values are ``final_loss``, ``final_test_accuracy``, and so on.
    """

    @property
    def diverged_at(self) -> int | None: ...
    @property
    def final_loss(self) -> float: ...
    @property
    def seconds_per_step(self) -> float: ...
    def steps_to(self, target: float) -> float: ...


RunT = TypeVar("RunT", bound=Run)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means over seeds, positive where the first one is better."""

    value: float
    standard_error: float  # NaN with less than two seeds on a side


@dataclasses.dataclass(frozen=True)
class Result(Generic[RunT]):
    """The result of a method on a task, over the seeds.

    Times are medians over the seeds: infinite where at least half of the seeds do not
    reach the target, NaN without runs.
    """

    task: TaskSpec
    method: MethodSpec  # as it takes part
    chosen: MethodSpec  # at the rate chosen from its grid
    records: Sequence[RunT]  # one per seed; none if the method was not run on the task
    # The final value by which the rate was chosen, by rate: a mean over the seeds.
    # Empty without a grid.
    grid_losses: Mapping[float, float]

    @property
    def num_diverged(self) -> int:
        """The number of seeds that diverged."""
        return sum(record.diverged_at is not None for record in self.records)

    def final(self, name: str) -> list[float]:
        """A final value of each seed that did not diverge."""
        finished = [record for record in self.records if record.diverged_at is None]
        return [getattr(record, name) for record in finished]

    @property
    def scores(self) -> list[float]:
        """The final score of each seed that did not diverge; see :func:`score_name`."""
        return self.final(score_name(self.task))

    def order(self, name: str) -> tuple[float, float]:
        """Sorts the best first: by the seeds that diverged, then by a final value."""
        values = self.final(name)
        if not values:
            return math.inf, 0.0
        sign = -1 if name.endswith("accuracy") else 1
        return self.num_diverged, sign * statistics.fmean(values)

    @property
    def median_final_loss(self) -> float:
        """The median of the final training losses, of two middle ones the higher.

        So at least half of the seeds reach it. Infinite without runs.
        """
        losses = [record.final_loss for record in self.records]
        return statistics.median_high(losses) if losses else math.inf

    @property
    def seconds_per_step(self) -> float:
        """The median over the seeds."""
        return _median(record.seconds_per_step for record in self.records)

    def steps_to(self, target: float) -> float:
        """Steps to a training loss."""
        return _median(record.steps_to(target) for record in self.records)

    def seconds_to(self, target: float) -> float:
        """Seconds of training to a training loss."""
        return _median(
            record.steps_to(target) * record.seconds_per_step for record in self.records
        )

    def minus(self, other: "Result") -> Difference:
        """How much better this mean score is than another one on the same task.

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


@dataclasses.dataclass(frozen=True)
class Target:
    """The training loss to reach on a task, and its source.

    Minus infinity, which no run reaches, stands for a task without a target.
    """

    loss: float
    source: str

    @property
    def exists(self) -> bool:
        """Whether there is a loss to reach."""
        return math.isfinite(self.loss)


def score_name(task: TaskSpec) -> str:
    """The final value that ranks methods: test accuracy, for language test loss."""
    return "final_test_loss" if task.is_text else "final_test_accuracy"


def baseline_target(results: Sequence[Result]) -> Target:
    """The median final training loss of a baseline on a task.

    It is that of Adam, else AdamW, tuned before untuned. Without one that finished, it
    is the median of the methods that did.
    """
    for name in BASELINES:
        own = [result for result in results if result.method.method == name]
        for result in sorted(own, key=lambda result: not result.method.grid):
            if math.isfinite(result.median_final_loss):
                return Target(result.median_final_loss, result.method.label)
    losses = [result.median_final_loss for result in results]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return Target(-math.inf, "nothing, since every method diverged")
    return Target(statistics.median_high(finite), "the median of the methods")


def tuned_adam_target(results: Sequence[Result]) -> Target:
    """The median final training loss of the tuned Adam, the reference of a suite."""
    for result in results:
        if is_tuned_adam(result.method) and math.isfinite(result.median_final_loss):
            return Target(result.median_final_loss, result.method.label)
    return Target(-math.inf, "nothing, since no tuned Adam finished")


def is_tuned_adam(method: MethodSpec) -> bool:
    """Whether a method is Adam with a cosine schedule and a grid of rates."""
    schedule = method.settings.get("schedule")
    return bool(method.grid) and (method.method, schedule) == ("adam", "cosine")


class Results(Generic[RunT]):
    """All results of a comparison.

    Methods and tasks are in the order of the plan.

    Args:
      plan: the tasks and methods.
      read: from a task and a method without a grid to its runs, one per seed.
      target: the training loss to reach on all tasks, or a function from the results of
        a task to its target; None: :func:`baseline_target`.
      grid_choice: what chooses the rate of a grid for each task: a key of
        :data:`CHOICES`, or ``test`` for the score, which favours tuned methods.
      time_ratios: the time of a step over that of :data:`TIMED_AGAINST`, by the names
        of task and method; None takes the times of the runs themselves, which other
        work on the machine may have disturbed.

    Attributes:
      results: by the names of task and method.
      targets: by the name of the task.

    Raises:
      UserError: if the rate is to be chosen by a loss that a run does not have.
    """

    def __init__(
        self,
        plan: Plan,
        read: Callable[[TaskSpec, MethodSpec], Sequence[RunT]],
        *,
        target: float | Callable[[Sequence[Result]], Target] | None = None,
        grid_choice: str = "train",
        time_ratios: Mapping[tuple[str, str], float] | None = None,
    ):
        self.plan, self.read, self.grid_choice = plan, read, grid_choice
        self._time_ratios = time_ratios
        self.results: dict[tuple[str, str], Result[RunT]] = {
            (task.name, method.label): self._choose(task, method)
            for task in plan.tasks
            for method in plan.methods
        }
        if target is None:
            target = baseline_target
        elif not callable(target):
            given = Target(target, "--target")
            target = lambda _: given
        self.targets: dict[str, Target] = {
            task.name: target([self.result(task, method) for method in plan.methods])
            for task in plan.tasks
        }

    def result(self, task: TaskSpec, method: MethodSpec) -> Result[RunT]:
        """The result of a method on a task."""
        return self.results[task.name, method.label]

    def on_all_tasks(self, method: MethodSpec) -> list[Result[RunT]]:
        """The results of a method, in the order of the tasks."""
        return [self.result(task, method) for task in self.plan.tasks]

    def ratios(self, unit: str) -> dict[str, list[float]]:
        """For each method, its time to target over the best one, on each task.

        Args:
          unit: ``steps`` or ``seconds``.
        """
        times = {
            method.label: [
                getattr(result, f"{unit}_to")(self.targets[result.task.name].loss)
                for result in self.on_all_tasks(method)
            ]
            for method in self.plan.methods
        }
        return performance_ratios(times)

    def steps_ratio(self, task: TaskSpec, method: MethodSpec) -> float:
        """Steps to the target over those of the task."""
        target = self.targets[task.name].loss
        return self.result(task, method).steps_to(target) / task.steps

    def time_ratio(self, task: TaskSpec, method: MethodSpec) -> float:
        """The time of a step over that of AdamW; else of the tuned Adam; else NaN."""
        if self._time_ratios is not None:
            return self._time_ratios.get((task.name, method.label), math.nan)
        labelled = [own for own in self.plan.methods if own.label == TIMED_AGAINST]
        base = next(iter(labelled), self.reference)
        if base is None:
            return math.nan
        own, other = (self.result(task, one) for one in (method, base))
        return own.seconds_per_step / other.seconds_per_step

    @property
    def reference(self) -> MethodSpec | None:
        """The tuned Adam; None if it does not take part."""
        return next(filter(is_tuned_adam, self.plan.methods), None)

    @functools.cached_property
    def mean_ranks(self) -> Mapping[str, float]:
        """The mean rank of each method over the tasks, by its label; 1 is the best.

        On a task, methods are in the order of their mean score; those with more
        diverged seeds come after all others. Equal ones share the mean of their ranks.
        Infinite if the method did not run on all tasks.
        """
        ranks: dict[str, list[float]] = {m.label: [] for m in self.plan.methods}
        for task in self.plan.tasks:
            own = [self.result(task, method) for method in self.plan.methods]
            orders = [result.order(score_name(task)) for result in own]
            for result, order in zip(own, orders, strict=True):
                before = sum(other < order for other in orders)
                rank = before + (orders.count(order) + 1) / 2
                ranks[result.method.label].append(rank if result.records else math.inf)
        return {label: statistics.fmean(own) for label, own in ranks.items()}

    @property
    def ranking(self) -> list[MethodSpec]:
        """The methods, the best mean rank first."""
        return sorted(self.plan.methods, key=lambda own: self.mean_ranks[own.label])

    def best_other(self, task: TaskSpec, method: MethodSpec) -> Result[RunT] | None:
        """The best result on a task of another method with one setting for all."""
        others = [
            self.result(task, other)
            for other in self.ranking
            if other.label != method.label and not other.grid
        ]
        others = [result for result in others if result.scores]
        best_first = lambda result: result.order(score_name(task))
        return min(others, key=best_first, default=None)

    def _choose(self, task: TaskSpec, method: MethodSpec) -> Result[RunT]:
        """The result at the rate of a grid at which the fewest seeds diverge.

        Among these it is the rate of the best mean final value.
        """
        name = CHOICES.get(self.grid_choice) or score_name(task)
        variants = [
            Result(task, method, variant, self.read(task, variant), {})
            for variant in method.variants()
        ]
        if not method.grid:
            return variants[0]
        means = {}
        for rate, own in zip(method.grid, variants, strict=True):
            finals = [getattr(record, name) for record in own.records]
            if self.grid_choice == "validation" and any(map(math.isnan, finals)):
                raise UserError(
                    f"`grid_choice` validation: runs of {method.label} on {task.name} "
                    "are of a version that kept no validation loss; make them in "
                    "another --output-dir, or leave the option out"
                )
            if finals:
                means[rate] = statistics.fmean(finals)
        made = [own for own in variants if own.records]
        best = min(made, key=lambda own: own.order(name), default=variants[0])
        return dataclasses.replace(best, grid_losses=means)


# The name that :class:`Results` had at first.
Summary = Results


def _median(values: Iterable[float]) -> float:
    values = list(values)
    return statistics.median(values) if values else math.nan
