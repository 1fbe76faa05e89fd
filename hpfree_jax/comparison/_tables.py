"""The tables of a comparison, as the report and the terminal both show them."""

import math

from hpfree_jax._table import Table
from hpfree_jax.comparison._format import milliseconds, number, percent, spread
from hpfree_jax.comparison._profile import profile_score
from hpfree_jax.comparison._results import Result, Summary
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec
from hpfree_jax.methods._registry import depends_on_total_steps
from hpfree_jax.training import METHODS


def task_table(summary: Summary, task: TaskSpec) -> Table:
    """What the methods reached on a task, the lowest training loss first."""
    results = [summary.result(task, method) for method in summary.plan.methods]
    target = summary.targets[task.name].loss

    def order(result: Result) -> tuple[int, float]:
        losses = result.final("final_loss")
        mean = sum(losses) / len(losses) if losses else math.inf
        return result.num_diverged, mean

    rows = []
    for result in sorted(results, key=order):
        rows.append(
            (
                result.method.label + _chosen_rate(result),
                spread(result.final("final_loss")),
                spread(result.final("final_test_loss")),
                spread(result.final("final_test_perplexity"))
                if task.is_text
                else percent(result.final("final_test_accuracy")),
                number(result.steps_to(target)),
                number(result.seconds_to(target)),
                milliseconds(result.seconds_per_step),
                f"{result.num_diverged} of {len(result.records)}",
            )
        )
    headings = (
        *("method", "training loss", "test loss"),
        "test perplexity" if task.is_text else "test accuracy, %",
        *("steps to target", "seconds to target", "ms a step", "diverged"),
    )
    source = summary.targets[task.name]
    title = f"{task.name}: target {number(target)}, from {source.source}"
    return Table(title, headings, rows)


def score_table(summary: Summary) -> Table:
    """The scores of the performance profiles, the best first."""
    ratios = {unit: summary.ratios(unit) for unit in ("steps", "seconds")}
    reached = lambda label: sum(map(math.isfinite, ratios["steps"][label]))
    rows = [
        (
            label,
            f"{profile_score(ratios['steps'][label]):.3f}",
            f"{profile_score(ratios['seconds'][label]):.3f}",
            f"{reached(label)} of {len(summary.plan.tasks)}",
        )
        for label in ratios["steps"]
    ]
    rows.sort(key=lambda row: row[1], reverse=True)
    headings = ("method", "score, steps", "score, seconds", "targets reached")
    return Table("Performance profiles", headings, rows)


def told_table(summary: Summary) -> Table:
    """What each method still had to be told."""
    rows = []
    for method in summary.plan.methods:
        row = METHODS[method.method]
        horizon = depends_on_total_steps(method.method, method.settings)
        first = summary.result(summary.plan.tasks[0], method).records[0]
        held_out = first.run["held_out"]
        needs = {
            "the length": horizon,
            "the architecture": bool(row.model_args),
            f"{held_out:.0%} of the training data, held out": held_out > 0,
        }
        rows.append(
            (
                method.label,
                _numbers(method, chosen=True) or "nothing",
                _numbers(method, chosen=False) or "nothing",
                " and ".join(name for name, is_told in needs.items() if is_told) or "-",
                first.run["init"],
                str(max(1, len(method.grid))),
            )
        )
    headings = (
        *("method", "chosen for it", "left at its default"),
        *("also told", "initial weights", "runs for a result"),
    )
    return Table("What each method was told", headings, rows)


def grid_table(summary: Summary, method: MethodSpec) -> Table:
    """The final loss that chose the rate of a tuned method, for each task and rate."""
    rows = []
    for task in summary.plan.tasks:
        result = summary.result(task, method)
        best = result.chosen.settings["learning_rate"]
        cells = [
            f"{number(loss) if math.isfinite(loss) else 'diverged'}"
            f"{' *' if rate == best else ''}"
            for rate, loss in result.grid_losses.items()
        ]
        rows.append((task.name, *cells))
    headings = ("task", *(f"{rate:g}" for rate in method.grid))
    kind = "validation" if summary.grid_choice == "validation" else "training"
    return Table(f"Final {kind} loss of {method.label}", headings, rows)


def _chosen_rate(result: Result) -> str:
    if not result.method.grid:
        return ""
    return f": {result.chosen.settings['learning_rate']:g}"


def _numbers(method: MethodSpec, chosen: bool) -> str:
    texts = [
        f"{name.replace('_', ' ')} {value:g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in method.settings.items()
        if (name in method.chosen) == chosen
        and value is not None
        and not (method.grid and name == "learning_rate")
    ]
    if chosen and method.grid:
        rates = ", ".join(f"{rate:g}" for rate in method.grid)
        texts.insert(0, f"learning rate, for each task out of {rates}")
    return "; ".join(texts)
