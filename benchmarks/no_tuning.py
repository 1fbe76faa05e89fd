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
import json
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path

import jinja2

from hpfree_jax.commands._bench import measure
from hpfree_jax.comparison import (
    MAX_STEPS_RATIO,
    SUITES,
    TIMED_AGAINST,
    SuiteRun,
    Table,
    find_runs,
    leaderboard,
    parse_method,
    read_runs,
    suite_results,
    targets_by_task,
    write_runs,
)
from hpfree_jax.training import METHODS
from hpfree_jax.training.engine import machine, now

FOLDER = Path(__file__).with_suffix("")
RESULTS, SESSIONS = FOLDER / "results.csv", FOLDER / "sessions.json"
TIMES = FOLDER / "step_times.csv"
PAGE = FOLDER.parents[1] / "docs" / "leaderboard.md"
SUITE = "no-tuning"
TASKS = SUITES[SUITE]
# Whose targets the page shows on each task, besides those of the best one.
DETAILED = ("auto",)
# What the template calls the tables of a leaderboard.
TABLES = ("scores", "speeds", "steps", "rates", "targets")


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
