"""The data of the tasks of a comparison, each of it read once."""

import os
from collections.abc import Iterable, Sequence

from hpfree_jax.comparison._specs import TaskSpec
from hpfree_jax.data import AnyDataset, open_dataset
from hpfree_jax.models import MODELS


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
        name = task.dataset
        if name not in opened:
            opened[name] = open_dataset(name, data_dir, _context(task))
        found[task.name] = opened[name].with_context(_context(task))
    return found


def report_damage(datasets: Iterable[AnyDataset]) -> None:
    """Prints which examples could not be read."""
    for note in dict.fromkeys(note for data in datasets for note in data.damage()):
        print(f"note: {note}", flush=True)


def _context(task: TaskSpec) -> int:
    given = task.model_settings.get("context")
    return given or MODELS[task.model].defaults.get("context", 0)
