"""A whole comparison: new, or continued."""

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._config import CompareConfig
from hpfree_jax.comparison._plan import Plan
from hpfree_jax.comparison._records import LOGGER, RunRecord, write_result
from hpfree_jax.comparison._report import render_report
from hpfree_jax.comparison._results import Results
from hpfree_jax.comparison._rows import check_format, table_bytes
from hpfree_jax.comparison._runner import Runner, Stopped
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec
from hpfree_jax.data import AnyDataset, open_dataset
from hpfree_jax.models import MODELS
from hpfree_jax.training import Progress
from hpfree_jax.training.engine import (
    LOCK,
    Interrupt,
    default_directory,
    enough_memory,
    lock,
    machine,
    now,
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a comparison ended, and where its files are."""

    directory: Path
    summary: Results | None  # None if it was interrupted
    runs_made: int  # in this session
    runs_found: int  # made before


def compare(
    config: CompareConfig,
    tasks: Sequence[TaskSpec] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Runs what is not there yet of a comparison; writes the table and the report.

    Ctrl-C gives up the runs at hand and keeps all that are finished.

    Args:
      config: the options.
      tasks: in place of those of the options; they may differ in length, batches and
        loss.
      progress: is told of each group of runs; None: they are printed.

    Raises:
      UserError: if something that was asked for is impossible; of what was finished
        before, nothing is lost.
    """
    plan = config.plan(tasks)
    check_format(config.table)
    directory = config.output_dir or default_directory("compare")
    _earlier_sessions(plan, directory)
    datasets = load_datasets(plan.tasks, config.data_dir)
    progress = progress or Progress()
    session = _Session(plan, directory, datasets, config.parallel, progress)
    with lock(directory):
        # Again: another process may have been first.
        sessions = [*_earlier_sessions(plan, directory), _this_session()]
        session.check_missing()
        content = {"plan": plan.to_json(), "sessions": sessions}
        write_result(directory / "plan.json", json.dumps(content, indent=2) + "\n")
        with Interrupt() as interrupt:
            try:
                session.run(lambda: interrupt.requested)
            except Stopped:
                return Comparison(directory, None, session.made, session.found)
        damage = (note for data in datasets.values() for note in data.damage())
        for note in dict.fromkeys(damage):  # tasks may share a dataset
            LOGGER.warning(note)
        summary = Results(
            plan, session.read, target=config.target, grid_choice=config.grid_choice
        )
        write_result(
            directory / f"results.{config.table}", table_bytes(summary, config.table)
        )
        write_result(directory / "report.html", render_report(summary, sessions))
    return Comparison(directory, summary, session.made, session.found)


class _Session:
    """The runs of a plan in a directory: which are there, and making the others."""

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        datasets: Mapping[str, AnyDataset],  # by the task's name
        parallel: str,
        progress: Progress,
    ):
        self._plan, self._directory = plan, directory
        self._datasets, self._parallel = datasets, parallel
        self._progress = progress
        self.made = self.found = 0

    def read(self, task: TaskSpec, variant: MethodSpec) -> list[RunRecord]:
        """The records of a method on a task, all of which are there."""
        records = [self._file(task, variant, seed).read() for seed in self._plan.seeds]
        return [record for record in records if record is not None]

    def check_missing(self) -> None:
        """Raises UserError if a run that is to be made cannot even begin."""
        for task, variant in self._plan.groups():
            if self._missing(task, variant):
                try:
                    self._runner(task, variant).check()
                except UserError as error:
                    raise UserError(
                        f"{variant.label} cannot train {task.name}: {error}"
                    ) from error

    def run(self, stop) -> None:
        """Makes the missing runs, and writes each when it is finished."""
        groups = list(self._plan.groups())
        for number, (task, variant) in enumerate(groups, 1):
            missing = self._missing(task, variant)
            self.found += self._plan.num_seeds - len(missing)
            if not missing:
                continue
            self._progress.say(
                f"{number}/{len(groups)}  {task.name}  {variant.label}  "
                f"seeds {', '.join(map(str, missing))}"
            )
            runner = self._runner(task, variant, stop)
            for seeds in self._batches(runner, missing):
                identities = [self._plan.identity(task, variant, s) for s in seeds]
                with _memory_for(task, variant, len(seeds)):
                    records = runner.run(seeds, identities)
                for seed, record in zip(seeds, records, strict=True):
                    self._file(task, variant, seed).write(record)
                    self.made += 1

    def _runner(self, task, variant, stop=lambda: False) -> Runner:
        dataset = self._datasets[task.name]
        return Runner(task, variant, dataset, self._plan.intervals(task), stop)

    def _file(self, task, variant, seed):
        return self._plan.file(self._directory, task, variant, seed)

    def _missing(self, task: TaskSpec, variant: MethodSpec) -> list[int]:
        return [
            seed
            for seed in self._plan.seeds
            if self._file(task, variant, seed).read() is None
        ]

    def _batches(self, runner: Runner, seeds: list[int]) -> list[list[int]]:
        at_once = self._parallel == "always" or (
            self._parallel == "auto" and runner.gains_from_vmap()
        )
        return [seeds] if at_once else [[seed] for seed in seeds]


def _memory_for(
    task: TaskSpec, variant: MethodSpec, num_seeds: int
) -> AbstractContextManager[None]:
    """Turns errors of too little memory into one that says what to do."""
    remedy = "make `batch_size` smaller"
    if num_seeds > 1:
        remedy = "train one seed after another with --parallel never"
    return enough_memory(
        f"{variant.label} on {task.name} does not fit into memory",
        f"all runs finished before are kept: {remedy}, in the same --output-dir",
    )


def load_datasets(
    tasks: Sequence[TaskSpec], data_dir: str | os.PathLike[str] | None = None
) -> dict[str, AnyDataset]:
    """Opens the data of each task, by the task's name.

    Tasks on the same data share the arrays, whatever the context of their models.

    Args:
      tasks: the tasks.
      data_dir: TFDS directory, as everywhere.

    Raises:
      UserError: if some data is not there, or damaged.
    """
    opened: dict[str, AnyDataset] = {}
    found = {}
    for task in tasks:
        settings = MODELS[task.model].defaults
        context = task.model_settings.get("context") or settings.get("context", 0)
        if task.dataset not in opened:
            opened[task.dataset] = open_dataset(task.dataset, data_dir, context)
        found[task.name] = opened[task.dataset].with_context(context)
    return found


def _earlier_sessions(plan: Plan, directory: Path) -> list[dict]:
    """The sessions of the comparison in a directory, none if it is new.

    Raises:
      UserError: if the directory holds another comparison, or something else.
    """
    path = directory / "plan.json"
    if not path.exists():
        if directory.exists() and any(p.name != LOCK for p in directory.iterdir()):
            raise UserError(
                f"`output_dir` {directory} is not empty and holds no comparison; "
                "choose another directory"
            )
        return []
    try:
        stored = json.loads(path.read_text())
        stored_plan, sessions = stored["plan"], list(stored["sessions"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error!r}); restore the file, or choose another "
            "--output-dir"
        ) from error
    plan.check_continues(stored_plan, directory)
    return sessions


def _this_session() -> dict:
    return {
        "started": now(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **machine(),
    }
