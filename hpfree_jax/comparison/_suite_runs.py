"""The runs of a suite as data: a row each, collected from directories or a CSV file."""

import csv
import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._records import RunRecord
from hpfree_jax.comparison._specs import TaskSpec

PACKAGES = ("hpfree_jax", "jax", "optax", "flax")


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
    versions: str  # of what the result depends on most

    @property
    def key(self) -> tuple[Any, ...]:
        """What no two rows share."""
        return self.task, self.method, self.learning_rate or 0.0, self.seed


class Found(NamedTuple):
    """A record in a directory, and the method that it belongs to."""

    method: str
    learning_rate: float | None  # as in :class:`SuiteRun`
    record: RunRecord

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.record.run["task"]["name"]

    def row(self, target: float | None) -> SuiteRun:
        """The run as a row, timed to a training loss if there is one."""
        record, run = self.record, self.record.run
        finished = record.diverged_at is None
        steps_to = None if target is None else record.steps_to(target)
        final = lambda name: _rounded(getattr(record, name)) if finished else None
        versions = record.machine["versions"]
        return SuiteRun(
            task=self.task,
            method=self.method,
            optimizer=run["method"],
            settings=json.dumps(run["settings"]),
            init=run["init"],
            learning_rate=self.learning_rate,
            seed=run["seed"],
            diverged_at=record.diverged_at,
            test_accuracy=final("final_test_accuracy"),
            test_loss=final("final_test_loss"),
            train_loss=final("final_loss"),
            steps=run["task"]["steps"],
            steps_to_target=steps_to if isinstance(steps_to, int) else None,
            seconds_per_step=_rounded(record.seconds_per_step),
            seeds_at_once=record.seeds_at_once,
            when=record.machine["when"],
            device=record.machine["device"],
            platform=record.machine["platform"],
            versions=", ".join(f"{name} {versions[name]}" for name in PACKAGES),
        )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def find_runs(directory: Path, tasks: Sequence[TaskSpec]) -> Iterator[Found]:
    """Yields the finished runs in the directory of a comparison, which may go on.

    Args:
      directory: of a comparison.
      tasks: of the suite; runs on others are left out.

    Raises:
      UserError: if it holds no comparison, or one on another version of a task.
    """
    try:
        methods = json.loads((directory / "plan.json").read_text())["plan"]["methods"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory} holds no comparison that can be read ({error!r})"
        ) from error
    known = {task.name: json.loads(json.dumps(task.identity())) for task in tasks}
    for path in sorted(directory.glob("runs/*/*/seed-*.json")):
        record = RunRecord(**json.loads(path.read_text()))
        task = record.run["task"]
        if task["name"] not in known:
            continue
        if task != known[task["name"]]:
            raise UserError(
                f"{path} is of another task {task['name']}: {task}; the suite has "
                f"{known[task['name']]}; make it again with this version"
            )
        for label, variants in methods.items():
            for variant in variants:
                if variant.items() <= record.run.items():
                    rate = variant["settings"].get("learning_rate")
                    yield Found(label, rate if len(variants) > 1 else None, record)


def write_runs(path: Path, runs: Iterable[SuiteRun]) -> None:
    """Writes a CSV file with a row for each run, in order."""
    names = [field.name for field in dataclasses.fields(SuiteRun)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for run in sorted(runs, key=lambda run: run.key):
            writer.writerow(dataclasses.asdict(run))


def read_runs(path: Path) -> list[SuiteRun]:
    """Reads what :func:`write_runs` wrote; an empty cell is None."""
    kinds = {}
    for field in dataclasses.fields(SuiteRun):
        kind: Any = field.type
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        kinds[field.name] = kind
    with path.open(newline="") as file:
        return [SuiteRun(**_typed(row, kinds)) for row in csv.DictReader(file)]


def _typed(row: dict[str, str], kinds: dict[str, Any]) -> dict[str, Any]:
    return {
        name: kind(row[name]) if row[name] else None for name, kind in kinds.items()
    }
