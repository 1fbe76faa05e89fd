"""The data of the tasks of a comparison, each of it read once."""

import dataclasses
import os
from collections.abc import Sequence

from hpfree_jax._user_input import UserError
from hpfree_jax.comparison._specs import TaskSpec
from hpfree_jax.data import TokenDataset, load_dataset, load_tokens
from hpfree_jax.models import MODELS
from hpfree_jax.training._held_out import AnyDataset, is_resident
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
      UserError: if some data is not there, damaged, or too large for the device.
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


def _open(task: TaskSpec, data_dir) -> AnyDataset:
    kind = dataset_kind(task.dataset)
    if kind != "tokens":
        return load_dataset(task.dataset, data_dir)
    dataset = load_tokens(task.dataset, data_dir, context=_context(task))
    if not is_resident(dataset):
        raise UserError(
            f"dataset {task.dataset} is too large for the device, and hpfree compare "
            "does not read while training; use hpfree train, or a part of the text"
        )
    return dataset


def _context(task: TaskSpec) -> int:
    given = task.model_settings.get("context")
    return given or MODELS[task.model].settings["context"]
