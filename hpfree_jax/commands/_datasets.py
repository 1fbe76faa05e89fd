"""``hpfree datasets``: the datasets, and where they are."""

import dataclasses
from pathlib import Path
from typing import Annotated

from hpfree_jax.commands._arguments import parse_arguments
from hpfree_jax.data import print_datasets
from hpfree_jax.training._model_config import option

PROGRAM = "hpfree datasets"


@dataclasses.dataclass(frozen=True)
class DatasetsCommand:
    """Lists the datasets, where each is or would be, and whether it is there."""

    data_dir: Annotated[
        Path | None,
        option("TFDS directory; None: $TFDS_DATA_DIR or ~/tensorflow_datasets."),
    ] = None


def run_datasets(args: list[str]) -> int:
    """Prints the table; returns the exit code."""
    config = parse_arguments(args, DatasetsCommand(), PROGRAM)
    print_datasets(config.data_dir)
    return 0
