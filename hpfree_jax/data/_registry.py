"""The table of datasets, and reading one of them into memory."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpfree_jax._errors import UserError, look_up
from hpfree_jax.data._any_dataset import AnyDataset
from hpfree_jax.data._augmentation import NO_AUGMENTATION, Augmentation
from hpfree_jax.data._dataset import Dataset, pixel_statistics
from hpfree_jax.data._records import Example, Records, Shape, check_features
from hpfree_jax.data._stream import StreamingDataset
from hpfree_jax.data._tokens import (
    TokenDataset,
    character_dataset,
    read_token_files,
)

DEFAULT_CONTEXT = 256  # tokens in an example of a text
_logger = logging.getLogger(__name__)


class DatasetEntry(NamedTuple):
    """One row of the table.

    ``prepared_builder(data_dir)`` returns a TFDS builder whose data is on the disk.
    """

    prepared_builder: Callable[[Path], Any]
    description: str  # one line for the help text
    input_shape: tuple[int, ...]  # of one example, known without reading any
    num_classes: int
    size: str  # on the disk once prepared, about
    version: str  # the folder of TFDS that holds it
    kind: str = "images"  # in memory; "stream": read while training; or "tokens"
    augmentation: Augmentation = NO_AUGMENTATION
    # Of the training pixels as bytes; None: measured over the training set.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    test_split: str = "test"
    stored_shape: Shape | None = None  # of the stored images; None: the input's


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

        if name == "imagenet16_120":  # imported, it is in TFDS's catalogue
            import hpfree_jax.data._imagenet16  # noqa: F401
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            from hpfree_jax.data._official import prepare

            prepare(builder)
        return builder

    return prepared


_CIFAR_AUGMENTATION = Augmentation(padding=4, flip=True)

# Where statistics are given, they are those of NAS-Bench-201 and of torchvision.
DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        _prepared_digits,
        "1,797 grey images of 8 x 8 pixels, no download",
        (8, 8, 1),
        10,
        size="0.4 MB",
        version="1.0.0",
    ),
    "mnist": DatasetEntry(
        _prepared_official("mnist"),
        "70,000 grey images of 28 x 28 pixels",
        (28, 28, 1),
        10,
        size="20 MB",
        version="3.0.1",
    ),
    "fashion_mnist": DatasetEntry(
        _prepared_official("fashion_mnist"),
        "70,000 grey images of clothes, 28 x 28 pixels",
        (28, 28, 1),
        10,
        size="40 MB",
        version="3.0.1",
    ),
    "cifar10": DatasetEntry(
        _prepared_official("cifar10"),
        "60,000 coloured images of 32 x 32 pixels",
        (32, 32, 3),
        10,
        size="140 MB",
        version="3.0.2",
        augmentation=_CIFAR_AUGMENTATION,
    ),
    "cifar100": DatasetEntry(
        _prepared_official("cifar100"),
        "60,000 coloured images of 32 x 32 pixels",
        (32, 32, 3),
        100,
        size="140 MB",
        version="3.0.2",
        augmentation=_CIFAR_AUGMENTATION,
    ),
    "imagenet16_120": DatasetEntry(
        _prepared_official("imagenet16_120"),
        "157,700 coloured images of 16 x 16 pixels",
        (16, 16, 3),
        120,
        size="120 MB",
        version="1.0.0",
        augmentation=Augmentation(padding=2, flip=True),
        mean=(122.68, 116.66, 104.01),
        std=(63.22, 61.26, 65.09),
    ),
    "imagenet2012": DatasetEntry(
        _prepared_official("imagenet2012"),
        "1,331,167 photographs, cropped to 224 x 224 pixels",
        (224, 224, 3),
        1000,
        size="155 GB",
        version="5.1.0",
        kind="stream",
        augmentation=Augmentation(flip=True),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        test_split="validation",
        stored_shape=(None, None, 3),
    ),
    "tiny_shakespeare": DatasetEntry(
        _prepared_official("tiny_shakespeare"),
        "1,115,394 characters of Shakespeare, 65 different ones",
        (256,),
        65,
        size="1 MB",
        version="1.0.0",
        kind="tokens",
    ),
}


def open_dataset(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    context: int | None = None,
) -> AnyDataset:
    """Opens any dataset of the table, or a folder of token files, as its kind needs.

    Damaged examples are left out; :meth:`AnyDataset.damage` reports them.

    Args:
      name: a key of :data:`DATASETS`, or a folder with ``train.bin`` and ``val.bin``.
      data_dir: as for :func:`load_dataset`.
      context: tokens in an example of a text; None: 256. Not used for images.

    Raises:
      UserError: as :func:`load_dataset` and :func:`load_tokens`.
    """
    name = os.fspath(name)
    if dataset_kind(name) == "tokens":
        return load_tokens(name, data_dir, context=context or DEFAULT_CONTEXT)
    if DATASETS[name].kind == "stream":
        return open_stream(name, data_dir)
    return _load(name, data_dir)


def dataset_kind(name: str) -> str:
    """Returns what a dataset holds: ``images`` or ``tokens``.

    A folder whose name is not in the table is taken for one of token files.

    Raises:
      UserError: if there is no such dataset or folder.
    """
    if name not in DATASETS and Path(name).is_dir():
        return "tokens"
    if name not in DATASETS and os.sep in name:
        raise UserError(
            f"`dataset` {name} is no folder; give one that holds train.bin and "
            f"val.bin, or one of {', '.join(DATASETS)}"
        )
    kind = look_up("dataset", name, DATASETS).kind
    return "tokens" if kind == "tokens" else "images"


def load_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Reads both splits of a dataset of images into memory.

    A damaged example is left out if at most one in ten is; a warning is logged, and
    ``skipped`` of the dataset says which.

    Args:
      name: a key of :data:`DATASETS`.
      data_dir: a TFDS directory, which must exist; None is TFDS's default one, the
        environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Raises:
      UserError: if there is no such dataset or directory, if it does not fit into
        memory or holds no images, or if the data is not there and cannot be
        downloaded, or is damaged.
    """
    entry = look_up("dataset", name, DATASETS)
    if entry.kind != "images":
        function = "open_stream" if entry.kind == "stream" else "load_tokens"
        what = "too large for the memory" if entry.kind == "stream" else "a text"
        raise UserError(f"dataset {name} is {what}: open it with data.{function}")
    dataset = _load(name, data_dir)
    for note in dataset.skipped:
        _logger.warning(note)
    return dataset


def _load(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    entry = DATASETS[name]
    with _opened(name, data_dir) as builder:
        train, test = _records(entry, builder)
        train_images, train_labels = _read_all(train)
        test_images, test_labels = _read_all(test)
    notes = [note for records in (train, test) if (note := records.report())]
    mean, std = _statistics(entry, [train_images])
    return Dataset(
        name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        entry.num_classes,
        mean,
        std,
        entry.augmentation,
        tuple(notes),
    )


def open_stream(
    name: str, data_dir: str | os.PathLike[str] | None = None
) -> StreamingDataset:
    """Opens a dataset of images to be read while a model trains.

    Arguments and errors are those of :func:`load_dataset`. Any dataset of images can
    be streamed; where statistics are measured, all training images are read for that.
    """
    entry = look_up("dataset", name, DATASETS)
    if entry.kind == "tokens":
        raise UserError(f"dataset {name} is a text: open it with data.load_tokens")
    with _opened(name, data_dir) as builder:
        train, test = _records(entry, builder)
        images = (np.stack([e.image for e in block]) for block in _blocks(train))
        mean, std = _statistics(entry, images)
    height, width, channels = entry.input_shape
    return StreamingDataset(
        name,
        train,
        test,
        (height, width, channels),
        entry.num_classes,
        mean,
        std,
        entry.augmentation,
        crops=entry.stored_shape is not None,
    )


def load_tokens(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    context: int = DEFAULT_CONTEXT,
) -> TokenDataset:
    """Opens a text, as characters or as the tokens of a file.

    Args:
      name: ``tiny_shakespeare``, or a folder with ``train.bin`` and ``val.bin``. A name
        of the table is never taken for a folder; ``./tiny_shakespeare`` is one.
      data_dir: as for :func:`load_dataset`; not used for a folder.
      context: tokens in an example.

    Raises:
      UserError: as :func:`load_dataset`, and if the context does not fit.
    """
    name = os.fspath(name)
    texts = {key: entry for key, entry in DATASETS.items() if entry.kind == "tokens"}
    if name not in DATASETS and Path(name).is_dir():
        return read_token_files(Path(name), context)
    if name in DATASETS and name not in texts:
        raise UserError(f"dataset {name} holds images: open it with data.load_dataset")
    if os.sep in name:
        raise UserError(
            f"there is no folder {name}; a folder of tokens holds train.bin"
        )
    look_up("text", name, texts)
    with _opened(name, data_dir) as builder:
        train, validation = (
            builder.as_data_source(split=split)[0]["text"].decode()
            for split in ("train", "validation")
        )
    return character_dataset(name, train, validation, context)


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the TFDS directory that is meant; raises UserError if it must exist."""
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise UserError(
            f"`data_dir` {str(data_dir)!r} is no directory; give one that exists, or "
            "leave it out for TFDS's default"
        )
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(data_dir or default).expanduser()


@contextlib.contextmanager
def _opened(name: str, data_dir: str | os.PathLike[str] | None) -> Iterator[Any]:
    """Gives the prepared builder; says of what goes wrong where the data is."""
    folder = data_directory(data_dir)
    try:
        with _quiet_logs():
            yield DATASETS[name].prepared_builder(folder)
    except UserError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # whatever TFDS and array_record make of damaged files
        reason = " ".join(str(error).split())[:200]
        raise _damaged(name, folder, f"{type(error).__name__}: {reason}") from error


def _damaged(name: str, folder: Path, reason: str) -> UserError:
    stored = folder / name
    remedy = f"remove {stored} to prepare it anew, or " if stored.exists() else ""
    return UserError(
        f"dataset {name} cannot be stored in or read from {folder} as array_record "
        f"({reason}); {remedy}choose another --data-dir"
    )


def _records(entry: DatasetEntry, builder: Any) -> tuple[Records, Records]:
    height, width, channels = entry.stored_shape or entry.input_shape
    shape = (height, width, channels)
    check_features(builder, shape, entry.num_classes)
    train, test = (
        Records(builder, split, entry.num_classes, shape)
        for split in ("train", entry.test_split)
    )
    return train, test


def _read_all(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Returns all readable examples; raises if one in ten is not."""
    examples = [example for block in _blocks(records) for example in block]
    images = np.stack([example.image for example in examples])
    return images, np.array([example.label for example in examples], np.int32)


def _blocks(records: Records) -> Iterator[list[Example]]:
    """Yields the readable examples in blocks; raises if one in ten is not."""
    for start in range(0, len(records), 1024):
        block = records.read(range(start, min(start + 1024, len(records))))
        if 10 * len(records.skipped) > len(records):
            raise ValueError(records.report())
        if readable := [example for example in block if example is not None]:
            yield readable


def _statistics(entry: DatasetEntry, blocks: Iterable[np.ndarray]):
    """Those that the table gives, or measured over blocks of training images."""
    if entry.mean is None:
        return pixel_statistics(blocks)
    return np.array(entry.mean, np.float32), np.array(entry.std, np.float32)


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
