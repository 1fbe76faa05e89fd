"""The tables of comparisons and suites, for the report, the terminal and the docs."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from hpfree_jax._table import Table
from hpfree_jax.comparison._profile import profile_score
from hpfree_jax.comparison._results import (
    Difference,
    Result,
    Results,
    score_name,
    tuned_adam_target,
)
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec
from hpfree_jax.methods import METHODS, depends_on_total_steps

MAX_STEPS_RATIO = 0.6  # of the tuned Adam's steps, to its final training loss

# The targets of a method with one setting on each task of a suite, as headings.
TARGETS = (
    "at or above tuned Adam",
    "at or above every other with one setting",
    f"at most {MAX_STEPS_RATIO:g} of its steps",
)


def number(value: float | None) -> str:
    """Three significant digits; "-" for a missing value.

    >>> number(0.012345), number(1234.5), number(math.inf)
    ('0.0123', '1,234', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds.

    >>> spread([0.5, 0.7])
    '0.6 ± 0.14'
    """
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        return number(values[0] if values else None)
    return f"{number(statistics.fmean(values))} ± {statistics.stdev(values):.2g}"


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of fractions, in percent.

    >>> percent([0.95, 0.97])
    '96.0 ± 1.4'
    """
    values = [100 * value for value in values if math.isfinite(value)]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def comparison_tables(results: Results, is_suite: bool = False) -> list[Table]:
    """A table for each task, and one of their scores; of a suite, its leaderboard."""
    if is_suite:
        plan, read = results.plan, results.read
        return leaderboard(
            Results(plan, read, target=tuned_adam_target, grid_choice="test")
        )
    tables = [task_table(results, task) for task in results.plan.tasks]
    return [*tables, score_table(results)] if len(tables) > 1 else tables


def task_table(results: Results, task: TaskSpec) -> Table:
    """The results of all methods on a task, the lowest training loss first."""
    target = results.targets[task.name]
    own = [results.result(task, method) for method in results.plan.methods]
    own.sort(key=lambda result: result.order("final_loss"))
    headings = (
        *("method", "training loss", "test loss"),
        "test perplexity" if task.is_text else "test accuracy, %",
        *("steps to target", "seconds to target", "ms per step", "diverged"),
    )
    rows = [
        (
            result.method.label + _chosen_rate(result),
            spread(result.final("final_loss")),
            spread(result.final("final_test_loss")),
            spread(result.final("final_test_perplexity"))
            if task.is_text
            else percent(result.final("final_test_accuracy")),
            number(result.steps_to(target.loss)),
            number(result.seconds_to(target.loss)),
            number(1000 * result.seconds_per_step),
            f"{result.num_diverged} of {len(result.records)}",
        )
        for result in own
    ]
    title = f"{task.name}: target {number(target.loss)}, from {target.source}"
    return Table(title, headings, rows)


def score_table(results: Results) -> Table:
    """The scores of the performance profiles, the best first."""
    ratios = {unit: results.ratios(unit) for unit in ("steps", "seconds")}
    reached = lambda label: sum(map(math.isfinite, ratios["steps"][label]))
    rows = [
        (
            label,
            f"{profile_score(ratios['steps'][label]):.3f}",
            f"{profile_score(ratios['seconds'][label]):.3f}",
            f"{reached(label)} of {len(results.plan.tasks)}",
        )
        for label in ratios["steps"]
    ]
    rows.sort(key=lambda row: row[1], reverse=True)
    headings = ("method", "score, steps", "score, seconds", "targets reached")
    return Table("Performance profiles", headings, rows)


def settings_table(results: Results) -> Table:
    """The settings of each method, and what else it needs."""
    rows = []
    for method in results.plan.methods:
        first = results.result(results.plan.tasks[0], method).records[0]
        held_out = first.run["held_out"]
        has_horizon = depends_on_total_steps(method.method, method.settings)
        needs = {
            "the number of steps": has_horizon,
            "the architecture": bool(METHODS[method.method].model_args),
            f"{held_out:.0%} of the training data held out": held_out > 0,
        }
        rows.append(
            (
                method.label,
                _settings(method, chosen=True) or "nothing",
                _settings(method, chosen=False) or "nothing",
                " and ".join(name for name, is_so in needs.items() if is_so) or "-",
                first.run["init"],
                str(max(1, len(method.grid))),
            )
        )
    headings = (
        *("method", "given", "left at its default"),
        *("also needs", "initial weights", "runs per result"),
    )
    return Table("Settings given to each method", headings, rows)


def grid_table(results: Results, method: MethodSpec) -> Table:
    """The final loss that chose the rate of a tuned method, for each task and rate."""
    rows = []
    for result in results.on_all_tasks(method):
        best = result.chosen.settings["learning_rate"]
        cells = [
            f"{number(loss) if math.isfinite(loss) else 'diverged'}"
            f"{' *' if rate == best else ''}"
            for rate, loss in result.grid_losses.items()
        ]
        rows.append((result.task.name, *cells))
    headings = ("task", *(f"{rate:g}" for rate in method.grid))
    kind = "validation" if results.grid_choice == "validation" else "training"
    return Table(f"Final {kind} loss of {method.label}", headings, rows)


def leaderboard(results: Results) -> list[Table]:
    """The tables of a suite; without a tuned Adam only that of the final scores."""
    makers = [final_scores]
    if results.reference is not None:
        makers += [speeds, steps_by_task, chosen_rates, targets_reached]
    return [make(results) for make in makers]


def final_scores(results: Results) -> Table:
    """The final test score of each method on each task."""
    rows = []
    for method in results.ranking:
        own = results.on_all_tasks(method)
        rank = results.mean_ranks[method.label]
        shown = f"{rank:.1f}" if math.isfinite(rank) else "-"
        failed = str(sum(result.num_diverged for result in own))
        rows.append((method.label, shown, *map(_score, own), failed))
    units = ["loss" if task.is_text else "%" for task in results.plan.tasks]
    pairs = zip(_names(results), units, strict=True)
    scores = (f"{name}, {unit}" for name, unit in pairs)
    headings = ["method", "mean rank", *scores, "failed runs"]
    return Table("Final test accuracy, or loss", headings, rows)


def speeds(results: Results) -> Table:
    """Steps and time to the tuned Adam's final training loss, over all tasks."""
    rows = []
    for method in results.ranking:
        tasks = results.plan.tasks
        steps = [results.steps_ratio(task, method) for task in tasks]
        step = [results.time_ratio(task, method) for task in tasks]
        time = [a * b for a, b in zip(steps, step, strict=True)]
        means = [number(geometric_mean(ratios)) for ratios in (steps, step, time)]
        ran = [ratio for ratio in steps if not math.isnan(ratio)]
        reached = f"{sum(map(math.isfinite, ran))} of {len(ran)}"
        rows.append((method.label, means[0], reached, *means[1:]))
    headings = (
        *("method", "steps to target loss", "tasks where reached"),
        *("time per step", "time to target loss"),
    )
    title = (
        "Steps to the tuned Adam's final training loss, over the steps of the task; "
    )
    return Table(title + "time per step over AdamW's", headings, rows)


def geometric_mean(ratios: Sequence[float]) -> float:
    """The geometric mean of those that are finite; NaN without any."""
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    return statistics.geometric_mean(finite) if finite else math.nan


def steps_by_task(results: Results) -> Table:
    """Steps to the target loss over the steps of the task, on each task."""
    rows = [
        (
            method.label,
            *(number(results.steps_ratio(task, method)) for task in results.plan.tasks),
        )
        for method in results.ranking
    ]
    headings = ("method", *_names(results))
    return Table("Steps to target loss, on each task", headings, rows)


def chosen_rates(results: Results) -> Table:
    """The learning rates of the tuned methods."""
    rate = lambda own: own.chosen.settings["learning_rate"] if own.records else None
    rows = [
        (method.label, *(number(rate(own)) for own in results.on_all_tasks(method)))
        for method in results.ranking
        if method.grid
    ]
    headings = ("method", *_names(results))
    return Table("Learning rates chosen by the final test score", headings, rows)


class Check(NamedTuple):
    """Whether a method reaches one of :data:`TARGETS` on a task."""

    is_reached: bool | None = None  # None: there is nothing to compare with
    difference: Difference = Difference(math.nan, math.nan)  # to the other method
    other: Result | None = None  # what the method is compared with


def check_targets(results: Results, task: TaskSpec, method: MethodSpec) -> list[Check]:
    """Checks a method on a task against each of :data:`TARGETS`.

    A mean score is compared with another one, and the steps with
    :data:`MAX_STEPS_RATIO`. A method of which a seed diverged reaches none, and comes
    after all others.
    """
    own = results.result(task, method)
    reference = results.reference
    others = (
        None if reference is None else results.result(task, reference),
        results.best_other(task, method),
    )
    is_reached = None
    if own.records and results.targets[task.name].exists:
        ratio = results.steps_ratio(task, method)
        is_reached = not own.num_diverged and ratio <= MAX_STEPS_RATIO
    return [*(_compare(own, other) for other in others), Check(is_reached)]


def _compare(own: Result, other: Result | None) -> Check:
    if other is None or not own.records or not other.scores:
        return Check(other=other)
    orders = [result.order(score_name(own.task)) for result in (own, other)]
    is_reached = not own.num_diverged and orders[0] <= orders[1]
    return Check(is_reached, own.minus(other), other)


def targets_reached(results: Results) -> Table:
    """On how many tasks each method with one setting reaches the targets."""
    rows = []
    for method in results.ranking:
        if method.grid:
            continue
        checks = [check_targets(results, task, method) for task in results.plan.tasks]
        counts = []
        for own in zip(*checks, strict=True):
            known = [x.is_reached for x in own if x.is_reached is not None]
            counts.append(f"{sum(known)} of {len(known)}")
        rows.append((method.label, *counts))
    return Table("Tasks on which a target is reached", ("method", *TARGETS), rows)


def targets_by_task(results: Results, method: MethodSpec) -> Table:
    """The targets of a method on each task, with differences and standard errors."""
    rows = []
    for task in results.plan.tasks:
        tuned, other, steps = check_targets(results, task, method)
        name = f", {other.other.method.label}" if other.other else ""
        rows.append(
            (
                task.name,
                _score(results.result(task, method)),
                _difference(task, tuned),
                _difference(task, other) + name,
                f"{number(results.steps_ratio(task, method))}: {_reached(steps)}",
            )
        )
    return Table(f"Targets of {method.label}", ("task", "score", *TARGETS), rows)


def _chosen_rate(result: Result) -> str:
    if not result.method.grid:
        return ""
    return f": {result.chosen.settings['learning_rate']:g}"


def _settings(method: MethodSpec, chosen: bool) -> str:
    """The settings that the user chose, or the others, as text."""
    shown = lambda value: f"{value:g}" if isinstance(value, float) else str(value)
    texts = [
        f"{name.replace('_', ' ')} {shown(value)}"
        for name, value in method.settings.items()
        if (name in method.chosen) == chosen
        and value is not None
        and not (method.grid and name == "learning_rate")
    ]
    if chosen and method.grid:
        rates = ", ".join(f"{rate:g}" for rate in method.grid)
        texts.insert(0, f"learning rate, for each task out of {rates}")
    return "; ".join(texts)


def _names(results: Results) -> list[str]:
    """Headings, with spaces where lines may break."""
    return [task.name.replace("_", " ") for task in results.plan.tasks]


def _score(result: Result) -> str:
    if not result.records:
        return "not run"
    failed = f"{result.num_diverged} of {len(result.records)} failed"
    if not result.scores:
        return failed
    shown = (spread if result.task.is_text else percent)(result.scores)
    return f"{shown}; {failed}" if result.num_diverged else shown


def _difference(task: TaskSpec, check: Check) -> str:
    difference = check.difference
    if not math.isfinite(difference.value):
        return _reached(check)
    scale, digits = (1, 3) if task.is_text else (100, 2)
    text = f"{scale * difference.value:+.{digits}f}"
    if math.isfinite(difference.standard_error):
        text += f" ± {scale * difference.standard_error:.{digits}f}"
    return f"{text}: {_reached(check)}"


def _reached(check: Check) -> str:
    return {None: "-", True: "reached", False: "missed"}[check.is_reached]
