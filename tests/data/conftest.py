"""A tiny ImageNet: TFDS's own builder, from archives of generated photographs."""

import io
import tarfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from hpfree_jax.data import _registry, open_stream

CLASSES = ("n01440764", "n01443537", "n01484850")  # ImageNet's labels 0, 1 and 2


def photograph(seed, height=60, width=80):
    """A smooth image, whose JPEG is close to it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image):
    """Encodes an RGB image."""
    return cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def write_tar(path_or_file, files):
    mode = {"fileobj": path_or_file} if isinstance(path_or_file, io.BytesIO) else {}
    name = None if mode else path_or_file
    with tarfile.open(name, "w", **mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_archives(folder, *, change=lambda files: None):
    """Writes the two archives of ImageNet, five training images a class, four more.

    ``change`` may replace the training images, a dictionary by name.
    """
    manual = folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    outer = {}
    for label, name in enumerate(CLASSES):
        files = {
            f"{name}_{i}.JPEG": jpeg(photograph(10 * label + i, 40 + 5 * i, 70))
            for i in range(5)
        }
        change(files)
        inner = io.BytesIO()
        write_tar(inner, files)
        outer[f"{name}.tar"] = inner.getvalue()
    write_tar(manual / "ILSVRC2012_img_train.tar", outer)
    validation = {
        f"ILSVRC2012_val_{i:08}.JPEG": jpeg(photograph(100 + i)) for i in (2, 4, 1, 3)
    }
    write_tar(manual / "ILSVRC2012_img_val.tar", validation)


@pytest.fixture(scope="session")
def imagenet_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    write_archives(folder)
    open_stream("imagenet2012", folder)
    return folder


class TinyPhotographs(tfds.core.GeneratorBasedBuilder):
    """The features of ImageNet, any examples."""

    name = "tiny_photographs"
    VERSION = tfds.core.Version("1.0.0")
    examples = ()  # of both splits: encoded image and label

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=1000),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(),
            "validation": self._generate_examples(),
        }

    def _generate_examples(self):
        for key, (image, label) in enumerate(self.examples):
            yield key, {"image": image, "label": label, "file_name": str(key)}


@pytest.fixture
def open_photographs(tmp_path, monkeypatch):
    """Stores examples and opens them as ImageNet is opened."""

    def open_(examples):
        monkeypatch.setattr(TinyPhotographs, "examples", examples)
        builder = TinyPhotographs(data_dir=tmp_path, file_format="array_record")
        builder.download_and_prepare()
        entry = _registry.DATASETS["imagenet2012"]
        entry = entry._replace(
            prepared_builder=lambda folder: builder, input_shape=(16, 16, 3)
        )
        monkeypatch.setitem(_registry.DATASETS, "tiny_photographs", entry)
        return open_stream("tiny_photographs", tmp_path)

    return open_
