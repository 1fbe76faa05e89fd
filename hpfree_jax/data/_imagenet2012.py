"""The archives of ImageNet 2012, parsed without TensorFlow."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpfree_jax._errors import UserError
from hpfree_jax.data._codec import CorruptExampleError, decode_image, encode_jpeg

ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def split_generators(dl_manager: Any) -> dict[str, Iterator]:
    """Takes the place of the method of TFDS's builder, which needs TensorFlow."""
    train, validation = (Path(dl_manager.manual_dir) / name for name in ARCHIVES)
    return {
        "train": train_examples(train),
        "validation": validation_examples(validation),
    }


def train_examples(archive: Path) -> Iterator[tuple[str, dict]]:
    """Yields the examples of an archive of archives, one for each class."""
    with tarfile.open(archive) as outer:
        for class_archive in outer:
            label = Path(class_archive.name).stem
            with tarfile.open(fileobj=outer.extractfile(class_archive)) as inner:
                yield from _images(inner, lambda name, label=label: label)


def validation_examples(archive: Path) -> Iterator[tuple[str, dict]]:
    """Yields the examples of an archive of images.

    Their labels are a file of TFDS, in the order of the names.
    """
    import tensorflow_datasets as tfds

    stored = "datasets/imagenet2012/validation_labels.txt"
    labels = Path(tfds.core.tfds_path(stored)).read_text().split()
    with tarfile.open(archive) as images:
        # `strict=False`: TFDS also takes an archive that holds fewer images.
        label_of = dict(zip(sorted(images.getnames()), labels, strict=False))
        yield from _images(images, label_of.__getitem__)


def _images(archive: tarfile.TarFile, label_of) -> Iterator[tuple[str, dict]]:
    for member in archive:
        file = archive.extractfile(member)
        if file is None:  # a directory
            continue
        image = checked_jpeg(file.read(), f"{member.name} of {archive.name}")
        name = member.name
        yield name, {"file_name": name, "image": image, "label": label_of(name)}


def checked_jpeg(encoded: bytes, where: str) -> bytes:
    """Returns an image that decodes, as a JPEG of three colours at most.

    The few files of ImageNet that are PNG or have four colours become JPEG of RGB, as
    TFDS makes them.

    Raises:
      UserError: if the image is damaged.
    """
    try:
        image = decode_image(encoded, 3)
    except CorruptExampleError as error:
        raise UserError(
            f"the image {where} is damaged ({error}); fetch the archive again"
        ) from error
    if encoded[:2] == b"\xff\xd8" and _num_colours(encoded) != 4:
        return encoded
    return encode_jpeg(image)


def _num_colours(jpeg: bytes) -> int | None:
    """Reads the number of components from the frame header of a JPEG."""
    place = 2
    while place + 9 < len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        # A frame header, SOF0 to SOF15; C4, C8 and CC in between are others.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return jpeg[place + 9]
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return None
