"""``hpfree datasets``: what there is, and where it is or would be."""

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hpfree_jax.data._registry import DATASETS
from hpfree_jax.data._stored import data_directory


def list_datasets(data_dir: str | os.PathLike[str] | None = None) -> Table:
    """Returns the table of all datasets.

    Nothing is imported from TFDS and no data is read: the table says whether the files
    that TFDS writes last are in their place.

    Raises:
      UserError: if ``data_dir`` is given and is no directory.
    """
    folder = data_directory(data_dir)
    table = Table("name", "examples", "shape", "classes", "size", "prepared", "place")
    for name, entry in DATASETS.items():
        place = folder / name / entry.version
        shape = " x ".join(map(str, entry.input_shape))
        table.add_row(
            name,
            entry.description,
            shape,
            str(entry.num_classes),
            entry.size,
            "yes" if is_prepared(place) else "no",
            str(place),
        )
    return table


def is_prepared(place: Path) -> bool:
    """Whether a folder holds a dataset that TFDS finished."""
    return (place / "dataset_info.json").is_file()


def print_datasets(data_dir: str | os.PathLike[str] | None = None) -> None:
    """Prints the table, as wide as it needs to be where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(list_datasets(data_dir))
