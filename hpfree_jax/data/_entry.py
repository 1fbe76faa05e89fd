"""The row of a dataset in the table."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hpfree_jax.data._any_dataset import AnyDataset
from hpfree_jax.data._augmentation import NO_AUGMENTATION, Augmentation
from hpfree_jax.data._records import Shape

Directory = str | os.PathLike[str] | None


class DatasetEntry(NamedTuple):
    """One row of the table of datasets.

    ``open(entry, name, data_dir, context)`` returns the dataset, given this row and its
    name, a TFDS directory (None: the default one) and, for texts, how many tokens an
    example has.
    """

    open: "Callable[[DatasetEntry, str, Directory, int], AnyDataset]"
    description: str  # one line for the listing
    input_shape: tuple[int, ...]  # of one example, known without reading any
    num_classes: int  # for texts, the vocabulary size
    kind: Literal["images", "tokens"] = "images"  # what an example is
    augmentation: Augmentation = NO_AUGMENTATION
    is_streamed: bool = False  # whether images are read while training
    size: str = "-"  # on disk, about
    version: str = ""  # the folder of TFDS that holds it; "": it has none

    # What follows is for datasets that TFDS stores: from a TFDS directory to a builder
    # whose data is on disk.
    prepared_builder: Callable[[Path], Any] | None = None
    # Statistics of the training pixels as bytes; None: measured over the training set.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    test_split: str = "test"
    stored_shape: Shape | None = None  # of the stored images; None: the input's
