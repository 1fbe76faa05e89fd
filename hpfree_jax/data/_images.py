"""Images that TFDS stores, read into memory or while a model trains."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from hpfree_jax.data._codec import opencv
from hpfree_jax.data._dataset import Dataset, pixel_statistics
from hpfree_jax.data._entry import DatasetEntry, Directory
from hpfree_jax.data._records import Example, Records, check_features
from hpfree_jax.data._stored import opened
from hpfree_jax.data._stream import StreamingDataset


def open_images(
    entry: DatasetEntry, name: str, data_dir: Directory, context: int
) -> Dataset | StreamingDataset:
    """Opens a row of images as it says."""
    del context  # of texts
    return (stream_images if entry.is_streamed else load_images)(entry, name, data_dir)


def load_images(entry: DatasetEntry, name: str, data_dir: Directory) -> Dataset:
    """Reads all readable images into memory."""
    with opened(entry, name, data_dir) as builder:
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


def stream_images(
    entry: DatasetEntry, name: str, data_dir: Directory
) -> StreamingDataset:
    """Opens the images to be read while a model trains."""
    if entry.stored_shape is not None:  # photographs, which have to be resized
        opencv(f"dataset {name}")
    with opened(entry, name, data_dir) as builder:
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
