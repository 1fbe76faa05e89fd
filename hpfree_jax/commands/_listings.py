"""``hpfree models`` and ``hpfree datasets``: the tables of what can be trained."""

import dataclasses
from pathlib import Path
from typing import Annotated

from hpfree_jax._options import Option
from hpfree_jax._table import Table, print_tables
from hpfree_jax.commands import ExitCode
from hpfree_jax.commands._arguments import parse_config
from hpfree_jax.data import print_datasets
from hpfree_jax.models import MODELS, Model


@dataclasses.dataclass(frozen=True)
class ModelsCommand:
    """Lists the models: name, number of parameters, data, source, settings."""

    markdown: Annotated[bool, Option("Print Markdown, as in docs/models.md.")] = False


@dataclasses.dataclass(frozen=True)
class DatasetsCommand:
    """Lists the datasets, where each is or would be, and whether it is there."""

    data_dir: Annotated[
        Path | None,
        Option("TFDS directory.", unset="$TFDS_DATA_DIR or ~/tensorflow_datasets"),
    ] = None


def run_models(args: list[str]) -> int:
    """Prints the table of models; returns the exit code."""
    if parse_config("models", args, ModelsCommand).markdown:
        print(models_markdown())
    else:
        print_tables([_models_table()])
    return ExitCode.DONE


def run_datasets(args: list[str]) -> int:
    """Prints the table of datasets; returns the exit code."""
    config = parse_config("datasets", args, DatasetsCommand)
    print_datasets(config.data_dir)
    return ExitCode.DONE


def models_markdown() -> str:
    """The table of models in Markdown.

    >>> print(models_markdown().splitlines()[2])
    | `fcn` | 920,064 | 32x32x3, 10 classes | ... | depth 4, width 256, no bias |
    """
    table = _models_table()
    rows = [(f"`{name}`", *cells) for name, *cells in table.rows]
    return dataclasses.replace(table, rows=rows).markdown()


def _models_table() -> Table:
    words = ("name", "for", "source", "settings")
    rows = [(name, *_cells(row)) for name, row in MODELS.items()]
    return Table("", ("name", "parameters", *words[1:]), rows, words=words)


def _cells(row: Model) -> list[str]:
    shape = "x".join(map(str, row.input_shape))
    unit, classes = (
        ("tokens", "in the vocabulary") if row.takes_tokens else ("", "classes")
    )
    data = f"{shape} {unit}".strip() + f", {row.num_classes:,} {classes}"
    settings = ", ".join(_setting(name, value) for name, value in row.defaults.items())
    return [f"{row.parameters:,}", data, row.reference, settings]


def _setting(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"
