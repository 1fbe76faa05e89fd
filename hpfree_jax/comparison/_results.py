"""What the runs of a comparison say: final values, times to target, the best rates."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._plan import Plan
from hpfree_jax.comparison._profile import performance_ratios
from hpfree_jax.comparison._records import RunRecord
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec

# What sets the target, where no loss is given: the first that takes part.
BASELINES = ("adam", "adamw")

# What can choose the rate of a grid, and the final loss of a run that it looks at.
CHOICES = {"train": "final_loss", "validation": "final_validation_loss"}

# The records of a task and a method without a grid, one per seed.
Read = Callable[[TaskSpec, MethodSpec], Sequence[RunRecord]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a method did on a task, over the seeds.

    A time to target is the median over the seeds, infinite where at least half of them
    do not get there.
    """

    task: TaskSpec
    method: MethodSpec  # as it takes part
    chosen: MethodSpec  # at the rate that its grid gave
    records: Sequence[RunRecord]  # one per seed
    # Final loss by rate, a mean over the seeds; empty without a grid.
    grid_losses: Mapping[float, float]

    @property
    def num_diverged(self) -> int:
        """How many seeds diverged."""
        return sum(record.diverged_at is not None for record in self.records)

    def final(self, name: str) -> list[float]:
        """A final value of each seed that did not diverge."""
        finished = [record for record in self.records if record.diverged_at is None]
        return [getattr(record, name) for record in finished]

    @property
    def seconds_per_step(self) -> float:
        """The median over the seeds."""
        return statistics.median(record.seconds_per_step for record in self.records)

    def steps_to(self, target: float) -> float:
        """Steps to a training loss."""
        return statistics.median(record.steps_to(target) for record in self.records)

    def seconds_to(self, target: float) -> float:
        """Seconds of training to a training loss."""
        return statistics.median(
            record.steps_to(target) * record.seconds_per_step for record in self.records
        )


@dataclasses.dataclass(frozen=True)
class Target:
    """A training loss to reach on a task, and where it comes from."""

    loss: float
    source: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """All results of a comparison.

    Methods and tasks are in the order of the plan.
    """

    plan: Plan
    results: Mapping[tuple[str, str], Result]  # by the names of task and method
    targets: Mapping[str, Target]  # by the task's name
    grid_choice: str = "train"  # a key of CHOICES

    def result(self, task: TaskSpec, method: MethodSpec) -> Result:
        """The result of a method on a task."""
        return self.results[task.name, method.label]

    def ratios(self, unit: str) -> dict[str, list[float]]:
        """For each method, its time to target over the best one, on each task.

        Args:
          unit: ``steps`` or ``seconds``.
        """
        times = {}
        for method in self.plan.methods:
            results = [self.result(task, method) for task in self.plan.tasks]
            times[method.label] = [
                getattr(result, f"{unit}_to")(self.targets[result.task.name].loss)
                for result in results
            ]
        return performance_ratios(times)


def summarise(
    plan: Plan, read: Read, target: float | None = None, grid_choice: str = "train"
) -> Summary:
    """Draws the results together.

    Args:
      plan: the comparison, all of whose runs are made.
      read: from a task and a method without a grid to its records.
      target: a training loss for all tasks; None takes each task's from a baseline.
      grid_choice: a key of :data:`CHOICES`, the final loss that chooses a rate.

    Raises:
      UserError: if the rate is to be chosen by a loss that a run does not have.
    """
    results = {
        (task.name, method.label): _result(task, method, read, CHOICES[grid_choice])
        for task in plan.tasks
        for method in plan.methods
    }
    targets = {}
    for task in plan.tasks:
        own = [results[task.name, method.label] for method in plan.methods]
        given = None if target is None else Target(target, "--target")
        targets[task.name] = given or find_target(own)
    return Summary(plan, results, targets, grid_choice)


def find_target(results: Sequence[Result]) -> Target:
    """The training loss that the methods of a task are timed to.

    It is what the baseline ends at: Adam, else AdamW, tuned before untuned. Without one
    that finished, it is what the median of those that did ends at. Over the seeds the
    median is taken, of two middle values the higher: so the baseline itself gets there
    from at least half of its seeds, and has a time.
    """
    final = lambda result: statistics.median_high(
        record.final_loss for record in result.records
    )
    for name in BASELINES:
        own = [result for result in results if result.method.method == name]
        for result in sorted(own, key=lambda result: not result.method.grid):
            if math.isfinite(final(result)):
                return Target(final(result), result.method.label)
    finals = [loss for loss in map(final, results) if math.isfinite(loss)]
    if not finals:
        return Target(-math.inf, "nothing, since every method diverged")
    return Target(statistics.median_high(finals), "the median of the methods")


def _result(task: TaskSpec, method: MethodSpec, read: Read, loss: str) -> Result:
    variants = method.variants()
    records = [read(task, variant) for variant in variants]
    final = [[getattr(record, loss) for record in own] for own in records]
    if method.grid and any(map(math.isnan, itertools.chain(*final))):
        raise UserError(
            f"`grid_choice` validation: runs of {method.label} on {task.name} are of a "
            "version that kept no validation loss; make them in another --output-dir, "
            "or leave the option out"
        )

    def badness(index: int) -> tuple[int, float]:
        losses = final[index]
        diverged = sum(not math.isfinite(loss) for loss in losses)
        finite = [loss for loss in losses if math.isfinite(loss)]
        return diverged, statistics.fmean(finite) if finite else math.inf

    best = min(range(len(variants)), key=badness)
    grid_losses = {
        rate: statistics.fmean(losses)
        for rate, losses in zip(method.grid, final, strict=bool(method.grid))
    }
    return Result(task, method, variants[best], records[best], grid_losses)
