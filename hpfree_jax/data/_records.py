"""Examples of a TFDS split, read in batches; what cannot be read is left out by name.

TFDS's own decoding takes about 100 microseconds an example, most of them in Python.
Here a batch of records is read in one call, and an example costs about 40, nearly all
of them in OpenCV (Pillow where it is missing) and array_record, which let other
threads run.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.data._codec import CorruptExampleError, decode_image

Shape = tuple[int | None, int | None, int]  # height, width (None: any), channels


class Example(NamedTuple):
    """One image and its label."""

    image: np.ndarray  # uint8, (height, width, channels)
    label: int


class Records:
    """One split of a prepared dataset of images.

    Attributes:
      name: of dataset and split, such as ``cifar10/train``.
      skipped: from the index of each example that could not be read to the reason.
    """

    def __init__(self, builder: Any, split: str, num_classes: int, shape: Shape):
        import tensorflow_datasets as tfds

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self.name = f"{builder.name}/{split}"
        self.skipped: dict[int, str] = {}
        self._source = builder.as_data_source(split=split, deserialize_method=raw)
        self._num_classes = num_classes
        self._shape = shape

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[Example | None]:
        """Returns the examples in order; None where one is damaged.

        Safe to call from several threads.
        """
        try:
            records = self._source.__getitems__(indices)
        except Exception:  # whatever array_record makes of damaged bytes
            records = [self._record(index) for index in indices]
        return [
            self._example(index, record)
            for index, record in zip(indices, records, strict=True)
        ]

    def read_or_replace(self, index: int) -> Example:
        """Returns an example, or the next one that is not damaged.

        Raises:
          UserError: if a thousand in a row are damaged, or all of them.
        """
        attempts = min(len(self), 1000)
        for offset in range(attempts):
            candidate = (index + offset) % len(self)
            if candidate not in self.skipped:
                (example,) = self.read([candidate])
                if example is not None:
                    return example
        raise UserError(
            f"dataset {self.name} is damaged: {attempts} examples in a row from "
            f"number {index} cannot be read ({self.skipped[index % len(self)]}); "
            "move it away and prepare it again"
        )

    def report(self) -> str | None:
        """Says in one line how many examples were skipped; None if none was."""
        skipped = dict(self.skipped)  # a copy: other threads may add to it
        if not skipped:
            return None
        index = min(skipped)
        return (
            f"{len(skipped)} of {len(self)} examples of {self.name} cannot be "
            f"read and are skipped; the first, number {index}: {skipped[index]}"
        )

    def _record(self, index: int) -> bytes | None:
        try:
            return self._source[index]
        except Exception as error:  # as above
            self._skip(index, error)
            return None

    def _example(self, index: int, record: bytes | None) -> Example | None:
        if record is None:
            return None
        try:
            encoded, label = parse(record)
            if not 0 <= label < self._num_classes:
                raise CorruptExampleError(
                    f"label {label} is not one of 0 to {self._num_classes - 1}"
                )
            image = decode_image(encoded, self._shape[-1])
            if not _fits(image.shape, self._shape):
                raise CorruptExampleError(
                    f"an image of shape {image.shape}, not {self._shape}"
                )
            return Example(image, label)
        except CorruptExampleError as error:
            self._skip(index, error)
            return None

    def _skip(self, index: int, error: Exception) -> None:
        self.skipped[int(index)] = " ".join(str(error).split())[:200]


def parse(record: bytes) -> tuple[bytes, int]:
    """Returns the encoded image and the label of a stored example.

    Raises:
      CorruptExampleError: if the bytes are not such an example.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    message: Any = tf_example_pb2  # its classes are made when it is imported
    try:
        example = message.Example.FromString(record)
    except DecodeError as error:
        raise CorruptExampleError(f"not a stored example ({error})") from error
    features = example.features.feature
    image = features["image"].bytes_list.value
    label = features["label"].int64_list.value
    if len(image) != 1 or len(label) != 1:
        raise CorruptExampleError("it has no image or no label")
    return image[0], label[0]


def check_features(builder: Any, shape: Shape, num_classes: int) -> None:
    """Raises UserError if a stored dataset is not one of such images and labels."""
    features = builder.info.features
    found = dict(features) if hasattr(features, "keys") else {}
    for name, expected in (
        ("image", f"an image of bytes of shape {shape}"),
        ("label", f"one of {num_classes} classes"),
    ):
        feature: Any = found.get(name)
        if feature is None:
            have = ", ".join(f"`{key}`" for key in found) or "none"
            what = f"has no feature `{name}` (it has {have})"
        elif name == "image" and not _is_image(feature, shape):
            what = f"has the feature `image` {feature}"
        elif name == "label" and getattr(feature, "num_classes", None) != num_classes:
            what = f"has the feature `label` {feature}"
        else:
            continue
        raise UserError(
            f"dataset {builder.name} in {builder.data_dir} {what}, expected {expected}"
        )


def _is_image(feature: Any, shape: Shape) -> bool:
    found = tuple(getattr(feature, "shape", None) or ())
    return np.dtype(feature.np_dtype) == np.uint8 and _fits(found, shape)


def _fits(found: tuple[int | None, ...], shape: Shape) -> bool:
    if len(found) != len(shape):
        return False
    return all(b is None or a == b for a, b in zip(found, shape, strict=True))
