"""The leaderboard of a suite, as the terminal and the documentation show it."""

import dataclasses
import math

from hpfree_jax.comparison._format import number, percent, spread
from hpfree_jax.comparison._specs import TaskSpec
from hpfree_jax.comparison._standings import (
    Difference,
    Outcome,
    Standings,
    geometric_mean,
)
from hpfree_jax.comparison._tables import Table

MAX_STEPS_RATIO = 0.6  # of the tuned Adam's steps, to its final training loss


@dataclasses.dataclass(frozen=True)
class Marks:
    """Which marks a method met on a task; None where there is nothing to compare."""

    tuned: Difference | None  # to the tuned Adam
    best_other: Outcome | None  # of the methods with one setting for all tasks
    other: Difference | None  # to that
    steps_ratio: float
    met_tuned: bool | None
    met_other: bool | None
    met_steps: bool | None


def find_marks(standings: Standings, task: TaskSpec, method: str) -> Marks:
    """Compares a method on a task to the tuned Adam and to all with one setting.

    A mark is met where the mean score is at least the other one, and at most
    :data:`MAX_STEPS_RATIO` of the steps are needed. A method of which a seed failed
    meets none, and is below all others.
    """
    own = standings.outcome(task, method)

    def compare(other: Outcome | None) -> tuple[Difference | None, bool | None]:
        if other is None or not own.runs or not other.scores:
            return None, None
        return own.minus(other), not own.num_failed and own.order <= other.order

    name = standings.reference
    reference = None if name is None else standings.outcome(task, name)
    tuned, met_tuned = compare(reference)
    best_other = standings.best_other(task, method)
    other, met_other = compare(best_other)
    ratio, met_steps = own.steps_ratio, None
    if own.runs and standings.target(task) is not None:
        met_steps = not own.num_failed and ratio <= MAX_STEPS_RATIO
    return Marks(tuned, best_other, other, ratio, met_tuned, met_other, met_steps)


def leaderboard(standings: Standings) -> list[Table]:
    """The tables about all methods; without a tuned Adam only that of their scores."""
    tables = [final_scores(standings)]
    if standings.reference is not None:
        makers = (speeds, steps_by_task, chosen_rates, marks_met)
        tables += [make(standings) for make in makers]
    return tables


def final_scores(standings: Standings) -> Table:
    """The final test score of each method on each task."""
    units = ["loss" if task.is_text else "%" for task in standings.tasks]
    pairs = zip(_names(standings), units, strict=True)
    headings = ["method", "mean rank", *(f"{name}, {unit}" for name, unit in pairs)]
    rows = []
    for method in standings.methods:
        cells = [_score(standings.outcome(task, method)) for task in standings.tasks]
        rank = standings.mean_rank(method)
        shown = f"{rank:.1f}" if math.isfinite(rank) else "-"
        failed = str(standings.num_failed(method))
        rows.append((method, shown, *cells, failed))
    return Table("Final test accuracy, or loss", [*headings, "failed runs"], rows)


def speeds(standings: Standings) -> Table:
    """Steps and time to the tuned Adam's final training loss, over all tasks."""
    rows = []
    for method in standings.methods:
        outcomes = [standings.outcome(task, method) for task in standings.tasks]
        steps = [outcome.steps_ratio for outcome in outcomes]
        step = [standings.time_ratio(task, method) for task in standings.tasks]
        time = [a * b for a, b in zip(steps, step, strict=True)]
        means = [number(geometric_mean(ratios)) for ratios in (steps, step, time)]
        ran = [ratio for ratio in steps if not math.isnan(ratio)]
        reached = f"{sum(map(math.isfinite, ran))} of {len(ran)}"
        rows.append((method, means[0], reached, *means[1:]))
    headings = (
        *("method", "steps to target", "targets reached"),
        *("time of a step", "time to target"),
    )
    title = "Steps and time to the tuned Adam's final training loss, over the tuned "
    return Table(title + "Adam's own; time of a step over AdamW's", headings, rows)


def steps_by_task(standings: Standings) -> Table:
    """Steps to target over the tuned Adam's, on each task."""
    rows = [
        (
            method,
            *(
                number(standings.outcome(task, method).steps_ratio)
                for task in standings.tasks
            ),
        )
        for method in standings.methods
    ]
    headings = ("method", *_names(standings))
    return Table("Steps to target, on each task", headings, rows)


def chosen_rates(standings: Standings) -> Table:
    """The rates that tuned methods were given."""
    rows = []
    for method in standings.methods:
        if standings.is_tuned(method):
            outcomes = [standings.outcome(task, method) for task in standings.tasks]
            rates = [x.runs[0].learning_rate if x.runs else None for x in outcomes]
            rows.append((method, *map(number, rates)))
    headings = ("method", *_names(standings))
    return Table("Rates chosen, by the final test score", headings, rows)


def marks_met(standings: Standings) -> Table:
    """On how many tasks each method with one setting meets the marks."""
    rows = []
    for method in standings.methods:
        if standings.is_tuned(method):
            continue
        marks = [find_marks(standings, task, method) for task in standings.tasks]
        counts = []
        for name in ("met_tuned", "met_other", "met_steps"):
            met = [getattr(mark, name) for mark in marks]
            known = [value for value in met if value is not None]
            counts.append(f"{sum(known)} of {len(known)}")
        rows.append((method, *counts))
    return Table("Tasks on which a mark is met", ("method", *_MARKS), rows)


def marks_by_task(standings: Standings, method: str) -> Table:
    """The marks of a method on each task, with differences and standard errors."""
    rows = []
    for task in standings.tasks:
        marks = find_marks(standings, task, method)
        other = marks.best_other
        name = f", {other.runs[0].method}" if other else ""
        rows.append(
            (
                task.name,
                _score(standings.outcome(task, method)),
                _difference(task, marks.tuned, marks.met_tuned),
                _difference(task, marks.other, marks.met_other) + name,
                f"{number(marks.steps_ratio)}: {_met(marks.met_steps)}",
            )
        )
    headings = ("task", "score", *_MARKS)
    return Table(f"Marks of {method}", headings, rows)


_MARKS = (
    "at or above tuned Adam",
    "at or above every other with one setting",
    f"at most {MAX_STEPS_RATIO:g} of its steps",
)


def _names(standings: Standings) -> list[str]:
    """Headings, with spaces where lines may break."""
    return [task.name.replace("_", " ") for task in standings.tasks]


def _score(outcome: Outcome) -> str:
    if not outcome.runs:
        return "not run"
    failed = f"{outcome.num_failed} of {len(outcome.runs)} failed"
    if not outcome.scores:
        return failed
    shown = (spread if outcome.task.is_text else percent)(outcome.scores)
    return f"{shown}; {failed}" if outcome.num_failed else shown


def _difference(
    task: TaskSpec, difference: Difference | None, is_met: bool | None
) -> str:
    if difference is None or not math.isfinite(difference.value):
        return _met(is_met)
    scale, digits = (1, 3) if task.is_text else (100, 2)
    text = f"{scale * difference.value:+.{digits}f}"
    if math.isfinite(difference.standard_error):
        text += f" ± {scale * difference.standard_error:.{digits}f}"
    return f"{text}: {_met(is_met)}"


def _met(is_met: bool | None) -> str:
    return "-" if is_met is None else "met" if is_met else "missed"
