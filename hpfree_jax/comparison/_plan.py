"""The runs of a comparison, and whether a directory holds a part of the same one."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._records import RecordFile
from hpfree_jax.comparison._specs import MethodSpec, TaskSpec, run_config, slug
from hpfree_jax.training.engine import Intervals

# What may grow when a comparison is continued, by adding to it.
GROWING = ("tasks", "methods", "seeds")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every method on every task from every seed.

    Args:
      tasks: with different names.
      methods: with different labels.
      num_seeds: the seeds are 0, 1, ...
      log_every: steps between two lines of training metrics; None: 50 lines a run.
      evaluate_every: steps between two evaluations; None: a task's own, else every
        fifth line.
    """

    tasks: tuple[TaskSpec, ...]
    methods: tuple[MethodSpec, ...]
    num_seeds: int
    log_every: int | None = None
    evaluate_every: int | None = None

    @property
    def seeds(self) -> range:
        """The seeds of every method on every task."""
        return range(self.num_seeds)

    def intervals(self, task: TaskSpec) -> Intervals:
        """When metrics of a run of the task are kept."""
        log_every = self.log_every or max(1, task.steps // 50)
        evaluate_every = self.evaluate_every or task.evaluate_every or 5 * log_every
        return Intervals(task.steps, log_every, evaluate_every)

    def groups(self) -> Iterator[tuple[TaskSpec, MethodSpec]]:
        """Each task with each method, and each rate of a grid, once."""
        done = set()
        for task in self.tasks:
            for method in self.methods:
                for variant in method.variants():
                    key = (task.name, self._folder(task, variant))
                    if key not in done:
                        done.add(key)
                        yield task, variant

    def identity(self, task: TaskSpec, variant: MethodSpec, seed: int) -> dict:
        """All that the result of a run depends on, but for versions and machine."""
        intervals = self.intervals(task)
        return {
            "task": task.identity(),
            **_identity(task, variant),
            "seed": seed,
            "log_every": intervals.log_every,
            "evaluate_every": intervals.evaluate_every,
        }

    def file(
        self, directory: Path, task: TaskSpec, variant: MethodSpec, seed: int
    ) -> RecordFile:
        """Where the result of a run belongs."""
        folder = directory / "runs" / slug(task.name) / self._folder(task, variant)
        identity = self.identity(task, variant, seed)
        return RecordFile(folder / f"seed-{seed}.json", identity)

    def to_json(self) -> dict[str, Any]:
        """The plan as it is stored."""
        return {
            "tasks": {task.name: task.identity() for task in self.tasks},
            "methods": {
                method.label: [_identity(self.tasks[0], v) for v in method.variants()]
                for method in self.methods
            },
            "seeds": {str(seed): True for seed in self.seeds},
            "log_every": self.log_every,
            "evaluate_every": self.evaluate_every,
        }

    def check_continues(self, stored: Mapping[str, Any], directory: Path) -> None:
        """Raises UserError unless all that was planned before is still planned.

        Tasks, methods and seeds may be added.
        """
        wanted = json.loads(json.dumps(self.to_json()))
        for path, old, new in _differences(stored, wanted):
            if old is None and len(path) == 2 and path[0] in GROWING:
                continue
            name = ".".join(path)
            describe = lambda x: "nothing" if x is None else json.dumps(x)
            raise UserError(
                f"`output_dir` {directory} holds another comparison: `{name}` is "
                f"{describe(old)} there and {describe(new)} here; give the options it "
                "was made with (tasks, methods and seeds may be added), or choose "
                "another directory"
            )

    @staticmethod
    def _folder(task: TaskSpec, variant: MethodSpec) -> str:
        text = json.dumps(_identity(task, variant), sort_keys=True)
        return f"{variant.method}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _identity(task: TaskSpec, variant: MethodSpec) -> dict[str, Any]:
    config = run_config(task, variant, 0)
    return {
        "method": variant.method,
        "settings": dict(variant.settings),
        "init": config.chosen_init,
        "held_out": config.held_out,
    }


def _differences(
    old: Any, new: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yields path, old and new value of what differs; None where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, (*path, str(index)))
    elif old != new:
        yield path, old, new
