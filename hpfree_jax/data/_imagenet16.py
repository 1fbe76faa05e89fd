"""The dataset ``imagenet16_120``: ImageNet at 16 x 16 pixels, its first 120 classes.

The pickled files are those of Chrabaszcz et al., `A Downsampled Variant of ImageNet as
an Alternative to the CIFAR datasets <https://arxiv.org/abs/1707.08819>`_, 2017; the
choice of 120 classes is NAS-Bench-201's.
"""

import hashlib
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from hpfree_jax._errors import UserError
from hpfree_jax.data._codec import encode_png
from hpfree_jax.data._pickles import read_pickle

NUM_CLASSES = 120
FOLDER = "imagenet16"
# MD5 of the authors' files, as NAS-Bench-201's code has them.
CHECKSUMS = {
    "train": {
        "train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
        "train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
        "train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
        "train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
        "train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
        "train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
        "train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
        "train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
        "train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
        "train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
    },
    "test": {"val_data": "3410e3017fdaefba8d5073aaa65e4bd6"},
}


class Imagenet16120(tfds.core.GeneratorBasedBuilder):
    """ImageNet downsampled to 16 x 16 pixels, the first 120 of its classes.

    151,700 training images; the 6,000 test images are ImageNet's validation images.
    """

    name = "imagenet16_120"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The pickled files of the authors, from image-net.org"
    )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=" ".join((type(self).__doc__ or "").split()),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(16, 16, 3)),
                    "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://patrykchrabaszcz.github.io/Imagenet32/",
        )

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir) / FOLDER
        return {
            split: self._generate_examples(folder, files)
            for split, files in CHECKSUMS.items()
        }

    def _generate_examples(self, folder, files):
        for name, checksum in files.items():
            images, labels = read_batch_file(folder / name, checksum)
            for index in np.flatnonzero(labels < NUM_CLASSES):
                image = encode_png(images[index])
                yield f"{name}-{index}", {"image": image, "label": int(labels[index])}


def read_batch_file(path: Path, checksum: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, ``(examples, 16, 16, 3)``, and labels from 0, of a file.

    Raises:
      UserError: if the file is not the authors' one, or not of that form.
    """
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != checksum:
        raise UserError(
            f"{path} is damaged: its MD5 is {found}, the authors' file has {checksum}; "
            "fetch it again"
        )
    content = read_pickle(path)
    try:
        planes = np.asarray(content["data"])
        labels = np.asarray(content["labels"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold `data` and `labels`") from error
    if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * 16 * 16):
        raise UserError(
            f"{path} holds `data` of shape {planes.shape} and type {planes.dtype} for "
            f"{len(labels)} labels, expected bytes of shape ({len(labels)}, 768)"
        )
    if len(labels) and not (labels.min() >= 1 and labels.max() <= 1000):
        raise UserError(f"{path} has labels outside of 1 to 1000")
    images = planes.reshape(-1, 3, 16, 16).transpose(0, 2, 3, 1)
    return images, labels - 1
