"""The table of datasets, and reading one of them into memory."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpfree_jax._user_input import UserError, look_up
from hpfree_jax.data._dataset import Dataset, pixel_statistics


class DatasetEntry(NamedTuple):
    """One row of the table.

    ``prepared_builder(data_dir)`` returns a TFDS builder whose data is on the disk.
    """

    prepared_builder: Callable[[Path], Any]
    description: str  # one line for the help text
    input_shape: tuple[int, int, int]  # of one image, known without reading any
    num_classes: int


def _prepared_digits(data_dir: Path) -> Any:
    import tensorflow_datasets as tfds

    from hpfree_jax.data._digits import Digits

    final = data_dir / "digits" / str(Digits.VERSION)
    if not (final / "dataset_info.json").exists():
        # Prepared aside and moved in one piece: several processes may do this at once.
        data_dir.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".digits-", dir=data_dir))
        try:
            with _quiet_progress():
                builder = Digits(data_dir=aside, file_format="array_record")
                builder.download_and_prepare()
            final.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another process was first
                (aside / "digits" / final.name).rename(final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return tfds.builder_from_directory(final)


def _prepared_official(name: str) -> Callable[[Path], Any]:
    def prepared(data_dir: Path) -> Any:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            from hpfree_jax.data._official import prepare

            prepare(builder)
        return builder

    return prepared


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        _prepared_digits,
        "1,797 grey images of 8 x 8 pixels, no download",
        (8, 8, 1),
        10,
    ),
    "mnist": DatasetEntry(
        _prepared_official("mnist"),
        "70,000 grey images of 28 x 28 pixels",
        (28, 28, 1),
        10,
    ),
    "cifar10": DatasetEntry(
        _prepared_official("cifar10"),
        "60,000 coloured images of 32 x 32 pixels",
        (32, 32, 3),
        10,
    ),
}


def load_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Reads both splits of a dataset into memory.

    Args:
      name: a key of :data:`DATASETS`.
      data_dir: a TFDS directory, which must exist; None is TFDS's default one, the
        environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Raises:
      UserError: if there is no such dataset or directory, or if the data is not
        there and cannot be downloaded, or is damaged.
    """
    entry = look_up("dataset", name, DATASETS)
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise UserError(
            f"`data_dir` {str(data_dir)!r} is no directory; give one that exists, or "
            "leave it out for TFDS's default"
        )
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    folder = Path(data_dir or default).expanduser()
    try:
        with _quiet_logs():
            builder = entry.prepared_builder(folder)
            num_classes = builder.info.features["label"].num_classes
            train_images, train_labels = _read(builder, "train")
            test_images, test_labels = _read(builder, "test")
    except UserError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # whatever TFDS and array_record make of damaged files
        reason = " ".join(str(error).split())[:200]
        stored = folder / name
        remedy = f"remove {stored} to prepare it anew, or " if stored.exists() else ""
        raise UserError(
            f"dataset {name} cannot be stored in or read from {folder} as array_record "
            f"({type(error).__name__}: {reason}); {remedy}choose another --data-dir"
        ) from error
    mean, std = pixel_statistics(train_images)
    return Dataset(
        name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        num_classes,
        mean,
        std,
    )


def _read(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split)
    examples = source.__getitems__(range(len(source)))
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples], np.int32)
    return images, labels


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Hides array_record's advice on group sizes, meant for reading at random."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """Hides TFDS's messages and bars: preparing the digits takes a second."""
    hidden = io.StringIO()
    with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
        yield
