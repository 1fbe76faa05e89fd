"""The leaderboard of the no-tuning suite: its data, and the page made from them.

    hpfree compare --suite no-tuning --methods ... --output-dir runs/no-tuning
    python benchmarks/no_tuning.py collect runs/no-tuning
    python benchmarks/no_tuning.py times
    python benchmarks/no_tuning.py page

``collect`` writes all finished runs in directories of ``hpfree compare``, which may be
unfinished, to ``benchmarks/no_tuning/results.csv``, one row per run; rows of other runs
stay. ``times`` times a training step of each of their methods on each task, in turns,
into ``benchmarks/no_tuning/step_times.csv``; nothing else should run on the machine.
``page`` writes ``docs/leaderboard.md``.
``targets METHOD`` prints which targets a method reaches on each task.
"""

import argparse
import csv
import dataclasses
import json
import math
import statistics
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hpfree_jax.commands._bench import measure
from hpfree_jax.comparison import (
    MAX_STEPS_RATIO,
    SUITES,
    TIMED_AGAINST,
    MethodSpec,
    Plan,
    Results,
    RunRecord,
    Table,
    TaskSpec,
    leaderboard,
    parse_method,
    targets_by_task,
    tuned_adam_target,
)
from hpfree_jax.training import METHODS
from hpfree_jax.training.engine import machine, now

FOLDER = Path(__file__).with_suffix("")
RESULTS, SESSIONS = FOLDER / "results.csv", FOLDER / "sessions.json"
TIMES = FOLDER / "step_times.csv"
PAGE = FOLDER.parents[1] / "docs" / "leaderboard.md"
SUITE = "no-tuning"
TASKS = SUITES[SUITE]
# The packages on which results depend most.
PACKAGES = ("hpfree_jax", "jax", "optax", "flax")
# Whose targets the page shows on each task, besides those of the best one.
DETAILED = ("auto",)
# What the template calls the tables of a leaderboard.
TABLES = ("scores", "speeds", "steps", "rates", "targets")


@dataclasses.dataclass(frozen=True)
class SuiteRun:
    """One run of a method on a task of a suite, as a row of a table."""

    task: str
    method: str  # the label: what the command line said
    optimizer: str  # a key of METHODS
    settings: str  # all of them, JSON
    init: str
    learning_rate: float | None  # the one of the grid; None: the method has no grid
    seed: int
    diverged_at: int | None  # first step with a loss that is not finite; None: finished
    # Final values; None of a run that diverged.
    test_accuracy: float | None
    test_loss: float | None
    train_loss: float | None  # the mean of the last five lines, a tenth of the run
    steps: int
    # To the tuned Adam's final training loss; None: never.
    steps_to_target: int | None
    seconds_per_step: float
    seeds_at_once: int  # by vmap, the time being divided by it
    when: str
    device: str
    platform: str
    versions: str  # of the packages on which the result depends most
    # Where the row comes from; None if it was read from a file of rows.
    record: RunRecord | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def key(self) -> tuple[Any, ...]:
        """What no two rows share."""
        return self.task, self.method, self.learning_rate or 0.0, self.seed

    @property
    def variant(self) -> str:
        """The label of the method at its rate, as of :meth:`MethodSpec.variants`."""
        rate = self.learning_rate
        return self.method if rate is None else f"{self.method}: {rate:g}"

    @property
    def final_loss(self) -> float:
        """The training loss at the end; infinite if the run diverged.

        Of a record at hand it is not rounded, so that the run reaches it as a target.
        """
        if self.record is not None:
            return self.record.final_loss
        return math.inf if self.train_loss is None else self.train_loss

    @property
    def final_test_loss(self) -> float:
        """The last loss on the test data; infinite if the run diverged."""
        return math.inf if self.test_loss is None else self.test_loss

    @property
    def final_test_accuracy(self) -> float:
        """The last accuracy on the test data; NaN if the run diverged."""
        return math.nan if self.test_accuracy is None else self.test_accuracy

    def steps_to(self, target: float) -> float:
        """The first step whose training loss is at most the target; or infinity.

        A row that was read from a file knows this for the target it was timed to alone.
        """
        if self.record is not None:
            return self.record.steps_to(target)
        return math.inf if self.steps_to_target is None else self.steps_to_target

    def timed(self, target: float) -> "SuiteRun":
        """The row as a file keeps it, with its steps to a training loss."""
        steps = self.steps_to(target)
        steps = int(steps) if math.isfinite(steps) else None
        return dataclasses.replace(self, steps_to_target=steps, record=None)


def find_runs(directory: Path, tasks: Sequence[TaskSpec]) -> Iterator[SuiteRun]:
    """Yields the finished runs in the directory of a comparison, which may go on.

    Args:
      directory: of a comparison.
      tasks: of the suite; runs on others are left out.

    Raises:
      SystemExit: if it holds no comparison, or one on another version of a task.
    """
    try:
        methods = json.loads((directory / "plan.json").read_text())["plan"]["methods"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(
            f"{directory} holds no comparison that can be read ({error!r})"
        ) from error
    known = {task.name: json.loads(json.dumps(task.identity())) for task in tasks}
    for path in sorted(directory.glob("runs/*/*/seed-*.json")):
        record = RunRecord(**json.loads(path.read_text()))
        task = record.run["task"]
        if task["name"] not in known:
            continue
        if task != known[task["name"]]:
            raise SystemExit(
                f"{path} is of another task {task['name']}: {task}; the suite has "
                f"{known[task['name']]}; make it again with this version"
            )
        for label, variants in methods.items():
            for variant in variants:
                if variant.items() <= record.run.items():
                    rate = variant["settings"].get("learning_rate")
                    yield _row(record, label, rate if len(variants) > 1 else None)


def _row(record: RunRecord, method: str, learning_rate: float | None) -> SuiteRun:
    run, machine = record.run, record.machine
    rounded = lambda value: float(f"{value:.6g}")
    finished = record.diverged_at is None
    final = lambda name: rounded(getattr(record, name)) if finished else None
    versions = machine["versions"]
    return SuiteRun(
        task=run["task"]["name"],
        method=method,
        optimizer=run["method"],
        settings=json.dumps(run["settings"]),
        init=run["init"],
        learning_rate=learning_rate,
        seed=run["seed"],
        diverged_at=record.diverged_at,
        test_accuracy=final("final_test_accuracy"),
        test_loss=final("final_test_loss"),
        train_loss=final("final_loss"),
        steps=run["task"]["steps"],
        steps_to_target=None,
        seconds_per_step=rounded(record.seconds_per_step),
        seeds_at_once=record.seeds_at_once,
        when=machine["when"],
        device=machine["device"],
        platform=machine["platform"],
        versions=", ".join(f"{name} {versions[name]}" for name in PACKAGES),
        record=record,
    )


def write_runs(path: Path, runs: Iterable[SuiteRun]) -> None:
    """Writes a CSV file with a row for each run, in order."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_kinds())
        for run in sorted(runs, key=lambda run: run.key):
            writer.writerow(getattr(run, name) for name in _kinds())


def read_runs(path: Path) -> list[SuiteRun]:
    """Reads what :func:`write_runs` wrote; an empty cell is None."""
    with path.open(newline="") as file:
        return [SuiteRun(**_typed(row)) for row in csv.DictReader(file)]


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: kind(row[name]) if row[name] else None for name, kind in _kinds().items()
    }


def _kinds() -> dict[str, Any]:
    """The columns of a file of rows, and what reads a cell of each."""
    kinds = {field.name: field.type for field in dataclasses.fields(SuiteRun)}
    del kinds["record"]
    return {
        name: typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind
        for name, kind in kinds.items()
    }


def suite_results(
    runs: Iterable[SuiteRun],
    tasks: Sequence[TaskSpec],
    time_ratios: Mapping[tuple[str, str], float] | None = None,
) -> Results[SuiteRun]:
    """The results of the rows of a suite, of all rates of a grid.

    The test score chooses the rate, and the tuned Adam sets the target.

    Args:
      runs: the rows.
      tasks: those of the suite; tasks without runs are left out.
      time_ratios: as for :class:`Results`.
    """
    runs = list(runs)
    own: dict[tuple[str, str], list[SuiteRun]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        own.setdefault((run.task, run.variant), []).append(run)
    by_method: dict[str, list[SuiteRun]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    names = {run.task for run in runs}
    plan = Plan(
        tuple(task for task in tasks if task.name in names),
        tuple(map(_method, by_method.values())),
        len({run.seed for run in runs}),
    )
    return Results(
        plan,
        lambda task, variant: own.get((task.name, variant.label), []),
        target=tuned_adam_target,
        grid_choice="test",
        time_ratios=time_ratios,
    )


def _method(runs: Sequence[SuiteRun]) -> MethodSpec:
    """The method of rows that have the same one, with the grid of all their rates."""
    first = runs[0]
    rates = {run.learning_rate for run in runs if run.learning_rate is not None}
    settings = json.loads(first.settings)
    return MethodSpec(
        first.method, first.optimizer, settings, grid=tuple(sorted(rates))
    )


def collect(directories: Sequence[Path]) -> None:
    """Puts the runs of directories into the data, in place of earlier ones."""
    found = [run for directory in directories for run in find_runs(directory, TASKS)]
    old = read_runs(RESULTS) if RESULTS.exists() else []
    runs = merge(old, found)
    write_runs(RESULTS, runs)
    print(f"{len(found)} runs found, {len(runs)} in {RESULTS}")
    sessions = json.loads(SESSIONS.read_text()) if SESSIONS.exists() else []
    for directory in directories:
        plan = json.loads((directory / "plan.json").read_text())
        sessions += [own for own in plan["sessions"] if own not in sessions]
    sessions.sort(key=lambda session: session["started"])
    SESSIONS.write_text(json.dumps(sessions, indent=1) + "\n")


def merge(old: Sequence[SuiteRun], found: Sequence[SuiteRun]) -> list[SuiteRun]:
    """Adds runs to the data, in place of earlier ones, and times them to the target.

    Raises:
      SystemExit: if that changes the target of earlier runs, whose curves are not kept.
    """
    latest = {run.key: run for run in found}
    kept = [run for run in old if run.key not in latest]
    before, after = (
        suite_results(runs, TASKS).targets for runs in (old, [*kept, *latest.values()])
    )
    rounded = lambda target: f"{target.loss:.6g}"  # as rows keep it
    for task, target in before.items():
        is_kept = any(run.task == task for run in kept)
        if is_kept and rounded(after[task]) != rounded(target):
            raise SystemExit(
                f"the tuned Adam's training loss on {task} is another one than "
                f"that of the {len(kept)} runs kept: name their directories too, or "
                f"move {RESULTS} away"
            )
    return [*kept, *(run.timed(after[run.task].loss) for run in latest.values())]


def time_steps(rounds: int) -> None:
    """Times a step of each method of the data on each task, beside AdamW's."""
    names = {run.method for run in read_runs(RESULTS)}
    methods = [parse_method(without_grid(name)) for name in sorted(names)]
    # What trains on held-out data as well has other steps than these.
    methods = [m for m in methods if not METHODS[m.method].validation_fraction]
    methods.sort(key=lambda method: method.label != TIMED_AGAINST)
    rows = []
    where = (rounds, now(), machine()["device"], machine()["platform"])
    for task in TASKS:
        base, *_ = costs = measure(task, methods, rounds)
        for cost in costs:
            pairs = zip(cost.seconds, base.seconds, strict=True)
            low, middle, high = statistics.quantiles([a / b for a, b in pairs])
            numbers = (1000 * statistics.median(cost.seconds), middle, low, high)
            texts = (f"{number:.4g}" for number in numbers)
            rows.append((task.name, cost.label, *texts, *where))
        print(task.name, flush=True)
    headings = ("task", "method", "milliseconds", "ratio", "low", "high")
    with TIMES.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*headings, "rounds", "when", "device", "platform"))
        writer.writerows(rows)


def read_times(names: Collection[str]) -> dict[tuple[str, str], float]:
    """The time of a step over AdamW's, by task and the method's name in the data."""
    with TIMES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["task"], name): float(row["ratio"])
        for row in rows
        for name in names
        if without_grid(name) == row["method"]
    }


def without_grid(name: str) -> str:
    """What the command line said of a method, without the grid of its rates."""
    return name.rsplit(", best of ", 1)[0]


def render(runs: Sequence[SuiteRun]) -> str:
    """The page of some runs."""
    times = read_times({run.method for run in runs})
    results = suite_results(runs, TASKS, times)
    singles = [method for method in results.ranking if not method.grid]
    detailed = {own.label: own for own in singles if own.label in DETAILED}
    detailed = {own.label: own for own in singles[:1]} | detailed
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = markdown
    return environment.get_template("leaderboard.md.jinja").render(
        tasks=results.plan.tasks,
        reference=results.reference,
        num_runs=len(runs),
        seeds=sorted({run.seed for run in runs}),
        days=sorted({run.when[:10] for run in runs}),
        machines=sorted({f"{run.device}, {run.platform}" for run in runs}),
        versions=sorted({run.versions for run in runs}),
        singles=[method.label for method in singles],
        grids=[without_grid(own.label) for own in results.ranking if own.grid],
        max_steps_ratio=MAX_STEPS_RATIO,
        tables=dict(zip(TABLES, leaderboard(results), strict=False)),
        details=[targets_by_task(results, method) for method in detailed.values()],
    )


def markdown(table: Table) -> str:
    """A table in Markdown, its first column in code, without the title."""
    lines = [table.headings, ["---", *["---:"] * (len(table.headings) - 1)]]
    lines += [(f"`{first}`", *rest) for first, *rest in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The no-tuning leaderboard.")
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("collect")
    own.add_argument("directories", nargs="+", type=Path)
    own = commands.add_parser("times")
    own.add_argument("--rounds", type=int, default=21)
    commands.add_parser("page")
    targets = commands.add_parser("targets", aliases=["marks"])
    targets.add_argument("method")
    args = parser.parse_args()
    if args.command == "collect":
        collect(args.directories)
    elif args.command == "times":
        time_steps(args.rounds)
    elif args.command == "page":
        PAGE.write_text(render(read_runs(RESULTS)))
        print(PAGE)
    else:
        results = suite_results(read_runs(RESULTS), TASKS)
        methods = {method.label: method for method in results.ranking}
        if args.method not in methods:
            parser.error(f"no runs of {args.method}; of {', '.join(methods)}")
        print(markdown(targets_by_task(results, methods[args.method])))


if __name__ == "__main__":
    main()
