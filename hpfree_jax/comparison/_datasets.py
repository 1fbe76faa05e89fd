"""The data of the tasks of a comparison, each of it read once."""

import dataclasses
import os
from collections.abc import Iterable, Sequence

from hpfree_jax.comparison._specs import TaskSpec
from hpfree_jax.data import (
    StreamingDataset,
    TokenDataset,
    load_dataset,
    load_tokens,
    open_stream,
)
from hpfree_jax.data._held_out import AnyDataset
from hpfree_jax.models import MODELS
from hpfree_jax.training._model_config import dataset_kind


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
            opened[name] = _open(task, data_dir)
        dataset = opened[name]
        if isinstance(dataset, TokenDataset):
            dataset = dataclasses.replace(dataset, context=_context(task))
        found[task.name] = dataset
    return found


def report_damage(datasets: Iterable[AnyDataset]) -> None:
    """Says which examples of streams could not be read."""
    streams = {id(x): x for x in datasets if isinstance(x, StreamingDataset)}
    for dataset in streams.values():
        for records in (dataset.train, dataset.test):
            if note := records.report():
                print(f"note: {note}", flush=True)


def _open(task: TaskSpec, data_dir) -> AnyDataset:
    kind = dataset_kind(task.dataset)
    if kind == "tokens":
        return load_tokens(task.dataset, data_dir, context=_context(task))
    return (open_stream if kind == "stream" else load_dataset)(task.dataset, data_dir)


def _context(task: TaskSpec) -> int:
    given = task.model_settings.get("context")
    return given or MODELS[task.model].settings["context"]
