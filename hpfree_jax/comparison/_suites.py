"""Named sets of tasks, on which every method has one setting; their runs as rows."""

import csv
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._records import RunRecord
from hpfree_jax.comparison._specs import TaskSpec

PACKAGES = ("hpfree_jax", "jax", "optax", "flax")


def _task(
    name: str,
    dataset: str,
    model: str,
    batch_size: int,
    steps: int,
    evaluations: int = 5,
    **settings: Any,
) -> TaskSpec:
    every = steps // evaluations
    loss = "cross_entropy"
    return TaskSpec(name, dataset, model, settings, batch_size, steps, loss, every)


# Depths from 1 to 16, batches from 16 to 4096, and all kinds of layers. Where a test
# takes long, it is made at the end only.
NO_TUNING = (
    _task("logistic_mnist", "mnist", "fcn", 128, 600, depth=1),
    _task("fcn8_mnist", "mnist", "fcn", 128, 600, depth=8),
    _task("fcn16_mnist", "mnist", "fcn", 128, 600, depth=16, width=128),
    _task("fcn4_cifar10", "cifar10", "fcn", 128, 600),
    _task("lenet5_mnist", "mnist", "lenet5", 64, 400, 1),
    _task("cnn_cifar10", "cifar10", "dag_cnn", 32, 300, 1, dag="2_02", channels=16),
    _task("resnet_cifar10", "cifar10", "wide_resnet", 32, 200, 1, depth=10, width=1),
    _task("dag_mnist", "mnist", "dag_mlp", 128, 600, dag="2_12_022"),
    _task(
        *("gpt_shakespeare", "tiny_shakespeare", "gpt_char", 16, 500, 1),
        **{"depth": 2, "width": 64, "heads": 4, "context": 64, "dropout": 0.0},
    ),
    _task("large_batch_mnist", "mnist", "fcn", 4096, 150, width=128),
)

SUITES: Mapping[str, tuple[TaskSpec, ...]] = {"no-tuning": NO_TUNING}


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
