import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from hpfree_jax.data import load_dataset


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepared by two processes at once: each must find a whole dataset."""
    folder = tmp_path_factory.mktemp("tfds")
    code = "import sys; from hpfree_jax.data import load_dataset as load; "
    code += "print(len(load('digits', sys.argv[1]).train_labels))"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        stdout, stderr = process.communicate(timeout=120)
        assert (stdout, stderr) == ("1438\n", "")
    return folder


def test_images_are_those_of_scikit_learn(data_dir):
    dataset = load_dataset("digits", data_dir)
    assert dataset.train_images.shape == (1438, 8, 8, 1)
    assert dataset.test_images.shape == (359, 8, 8, 1)
    assert dataset.test_images.dtype == np.uint8
    assert dataset.test_labels.dtype == np.int32
    assert dataset.num_classes == 10
    # TFDS shuffles once and for all: compare as sets of (pixels, label).
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    is_test = np.arange(1797) % 5 == 4
    for images, labels, mask in (
        (dataset.train_images, dataset.train_labels, ~is_test),
        (dataset.test_images, dataset.test_labels, is_test),
    ):
        pairs = lambda images, labels: sorted(
            (bytes(image), int(label))
            for image, label in zip(images, labels, strict=True)
        )
        assert pairs(images, labels) == pairs(pixels[mask], digits.target[mask])


def test_the_directory_is_tfds_own_and_clean(data_dir):
    source = tfds.data_source("digits", data_dir=data_dir, split="train[:10]")
    assert len(source) == 10
    assert source[0]["image"].shape == (8, 8, 1)
    assert [path.name for path in data_dir.iterdir()] == ["digits"]


def test_loading_again_gives_the_same_order(data_dir):
    first, second = (load_dataset("digits", data_dir) for _ in range(2))
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.train_labels, second.train_labels)
