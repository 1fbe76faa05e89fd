"""The datasets as a table: what there is, and where it is or would be."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpfree_jax._table import Table, print_tables
from hpfree_jax.data._registry import DATASETS
from hpfree_jax.data._stored import data_directory

if TYPE_CHECKING:
    from rich.table import Table as RichTable

HEADINGS = ("name", "examples", "shape", "classes", "size", "prepared", "place")


def list_datasets(data_dir: str | os.PathLike[str] | None = None) -> "RichTable":
    """Returns the table of all datasets, which ``rich`` prints.

    Nothing is imported from TFDS and no data is read: the table says whether the files
    that TFDS writes last are in their place.

    Raises:
      UserError: if ``data_dir`` is given and is no directory.
    """
    return _table(data_dir).__rich__()


def print_datasets(data_dir: str | os.PathLike[str] | None = None) -> None:
    """Prints the table, one line for each dataset where the output is no terminal."""
    print_tables([_table(data_dir)])


def is_prepared(place: Path) -> bool:
    """Whether a folder holds a dataset that TFDS finished."""
    return (place / "dataset_info.json").is_file()


def _table(data_dir: str | os.PathLike[str] | None) -> Table:
    folder = data_directory(data_dir)
    rows = []
    for name, entry in DATASETS.items():
        place = folder / name / entry.version
        shape = " x ".join(map(str, entry.input_shape))
        classes, prepared = (
            str(entry.num_classes),
            "yes" if is_prepared(place) else "no",
        )
        rows.append(
            (name, entry.description, shape, classes, entry.size, prepared, str(place))
        )
    return Table("", HEADINGS, rows, words=HEADINGS)
