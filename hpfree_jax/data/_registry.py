"""The table of datasets, and opening one of them."""

import logging
import os
from pathlib import Path
from typing import Literal, TypeVar

from hpfree_jax._errors import UserError, look_up
from hpfree_jax._settings import register
from hpfree_jax.data._any_dataset import AnyDataset
from hpfree_jax.data._augmentation import Augmentation
from hpfree_jax.data._dataset import Dataset
from hpfree_jax.data._entry import DatasetEntry, Directory
from hpfree_jax.data._images import open_images, stream_images
from hpfree_jax.data._stored import prepared_digits, prepared_official
from hpfree_jax.data._stream import StreamingDataset
from hpfree_jax.data._texts import open_text, read_token_files
from hpfree_jax.data._tokens import TokenDataset

DEFAULT_CONTEXT = 256  # tokens in an example of a text
T = TypeVar("T")
_logger = logging.getLogger(__name__)


_CIFAR_AUGMENTATION = Augmentation(padding=4, flip=True)

# Where statistics are given, they are those of NAS-Bench-201 and of torchvision.
DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        open_images,
        "1,797 grey images of 8 x 8 pixels, no download",
        (8, 8, 1),
        10,
        size="0.4 MB",
        version="1.0.0",
        prepared_builder=prepared_digits,
    ),
    "mnist": DatasetEntry(
        open_images,
        "70,000 grey images of 28 x 28 pixels",
        (28, 28, 1),
        10,
        size="20 MB",
        version="3.0.1",
        prepared_builder=prepared_official("mnist"),
    ),
    "fashion_mnist": DatasetEntry(
        open_images,
        "70,000 grey images of clothes, 28 x 28 pixels",
        (28, 28, 1),
        10,
        size="40 MB",
        version="3.0.1",
        prepared_builder=prepared_official("fashion_mnist"),
    ),
    "cifar10": DatasetEntry(
        open_images,
        "60,000 coloured images of 32 x 32 pixels",
        (32, 32, 3),
        10,
        size="140 MB",
        version="3.0.2",
        augmentation=_CIFAR_AUGMENTATION,
        prepared_builder=prepared_official("cifar10"),
    ),
    "cifar100": DatasetEntry(
        open_images,
        "60,000 coloured images of 32 x 32 pixels",
        (32, 32, 3),
        100,
        size="140 MB",
        version="3.0.2",
        augmentation=_CIFAR_AUGMENTATION,
        prepared_builder=prepared_official("cifar100"),
    ),
    "imagenet16_120": DatasetEntry(
        open_images,
        "157,700 coloured images of 16 x 16 pixels",
        (16, 16, 3),
        120,
        size="120 MB",
        version="1.0.0",
        augmentation=Augmentation(padding=2, flip=True),
        mean=(122.68, 116.66, 104.01),
        std=(63.22, 61.26, 65.09),
        prepared_builder=prepared_official("imagenet16_120"),
    ),
    "imagenet2012": DatasetEntry(
        open_images,
        "1,331,167 photographs, cropped to 224 x 224 pixels",
        (224, 224, 3),
        1000,
        size="155 GB",
        version="5.1.0",
        is_streamed=True,
        augmentation=Augmentation(flip=True),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        test_split="validation",
        stored_shape=(None, None, 3),
        prepared_builder=prepared_official("imagenet2012"),
    ),
    "tiny_shakespeare": DatasetEntry(
        open_text,
        "1,115,394 characters of Shakespeare, 65 different ones",
        (256,),
        65,
        size="1 MB",
        version="1.0.0",
        kind="tokens",
        prepared_builder=prepared_official("tiny_shakespeare"),
    ),
}


def register_dataset(name: str, entry: DatasetEntry) -> None:
    """Adds a dataset of your own to :data:`DATASETS`.

    From then on :func:`open_dataset`, training, comparisons and the command line's
    listings find it by its name.

    Raises:
      UserError: if the name is taken or no word, or the entry is no row of the table.

    >>> import numpy as np
    >>> def open_noise(entry, name, data_dir, context):
    ...     rng = np.random.default_rng(0)
    ...     images = rng.integers(256, size=(8, *entry.input_shape), dtype=np.uint8)
    ...     labels = np.arange(8, dtype=np.int32) % entry.num_classes
    ...     mean, std = np.array([127.5], "f"), np.array([74], "f")
    ...     return Dataset(name, images, labels, images, labels, 2, mean, std)
    >>> entry = DatasetEntry(open_noise, "noise of 4 x 4 pixels", (4, 4, 1), 2)
    >>> register_dataset("noise", entry)
    >>> open_dataset("noise").num_train
    8
    >>> del DATASETS["noise"]
    """
    register("dataset", DATASETS, name, entry, DatasetEntry)


def open_dataset(
    name: str | os.PathLike[str],
    data_dir: Directory = None,
    context: int | None = None,
) -> AnyDataset:
    """Opens any dataset of the table, or a folder of token files.

    Damaged examples are left out; :meth:`AnyDataset.damage` reports them.

    Args:
      name: a key of :data:`DATASETS`, or a folder with ``train.bin`` and ``val.bin``. A
        key is never taken for a folder; ``./tiny_shakespeare`` is one.
      data_dir: as for :func:`load_dataset`; not used for a folder.
      context: tokens in an example of a text; None: 256. Not used for images.

    Raises:
      UserError: as :func:`load_dataset`, and if the context does not fit.
    """
    name, context = os.fspath(name), context or DEFAULT_CONTEXT
    dataset_kind(name)  # raises if there is none
    if name not in DATASETS:
        return read_token_files(Path(name), context)
    entry = DATASETS[name]
    return entry.open(entry, name, data_dir, context)


def dataset_kind(name: str) -> Literal["images", "tokens"]:
    """Returns what the examples of a dataset are.

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
    return look_up("dataset", name, DATASETS).kind


def load_dataset(name: str, data_dir: Directory = None) -> Dataset:
    """Reads both splits of a dataset of images into memory.

    A damaged example is left out if at most one in ten is; a warning is logged, and
    ``skipped`` of the dataset says which.

    Args:
      name: a key of :data:`DATASETS`.
      data_dir: a TFDS directory, which must exist; None: the default one, the
        environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Raises:
      UserError: if there is no such dataset or directory, if it does not fit into
        memory or holds no images, or if the data is not there and cannot be
        downloaded, or is damaged.
    """
    entry = look_up("dataset", name, DATASETS)
    if entry.is_streamed or entry.kind == "tokens":
        function = "open_stream" if entry.is_streamed else "load_tokens"
        what = "too large for the memory" if entry.is_streamed else "a text"
        raise UserError(f"dataset {name} is {what}: open it with data.{function}")
    dataset = entry.open(entry, name, data_dir, DEFAULT_CONTEXT)
    for note in dataset.damage():
        _logger.warning(note)
    return _as(Dataset, dataset)


def open_stream(name: str, data_dir: Directory = None) -> StreamingDataset:
    """Opens a dataset of images to be read while a model trains.

    Arguments and errors are those of :func:`load_dataset`. Any dataset of images that
    TFDS stores can be streamed; where statistics are measured, all training images are
    read for that.
    """
    entry = look_up("dataset", name, DATASETS)
    if entry.kind == "tokens":
        raise UserError(f"dataset {name} is a text: open it with data.load_tokens")
    if entry.prepared_builder is None:
        return _as(StreamingDataset, entry.open(entry, name, data_dir, DEFAULT_CONTEXT))
    return stream_images(entry, name, data_dir)


def load_tokens(
    name: str | os.PathLike[str],
    data_dir: Directory = None,
    *,
    context: int = DEFAULT_CONTEXT,
) -> TokenDataset:
    """Opens a text, as characters or as the tokens of a file.

    Arguments and errors are those of :func:`open_dataset`.
    """
    name = os.fspath(name)
    if name in DATASETS and DATASETS[name].kind != "tokens":
        raise UserError(f"dataset {name} holds images: open it with data.load_dataset")
    if context < 1:
        raise UserError(f"`context` must be 1 or more, got {context}")
    if name not in DATASETS and not Path(name).is_dir():
        if os.sep in name:
            raise UserError(
                f"there is no folder {name}; a folder of tokens holds train.bin"
            )
        look_up("text", name, {k: v for k, v in DATASETS.items() if v.kind == "tokens"})
    return _as(TokenDataset, open_dataset(name, data_dir, context))


def _as(kind: type[T], dataset: AnyDataset) -> T:
    """Returns the dataset if it is of a class; it may be one of a user's own."""
    if isinstance(dataset, kind):
        return dataset
    raise UserError(
        f"dataset {dataset.name} is a {type(dataset).__name__}, no {kind.__name__}: "
        "open it with data.open_dataset"
    )
