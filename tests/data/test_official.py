import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from hpfree_jax.data import _official
from hpfree_jax.data._official import cifar10_examples, mnist_examples, prepare


def decode(png, flag):
    return cv2.imdecode(np.frombuffer(png, np.uint8), flag)


@pytest.fixture
def idx_files(tmp_path):
    """Two files of the format of MNIST: a header, then three examples."""
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    (tmp_path / "images").write_bytes(bytes(16) + images.tobytes())
    (tmp_path / "labels").write_bytes(bytes(8) + bytes([5, 0, 9]))
    return tmp_path / "images", tmp_path / "labels", images


def test_mnist_files_are_parsed(idx_files):
    image_file, label_file, images = idx_files
    examples = list(mnist_examples(3, image_file, label_file))
    assert [(key, example["label"]) for key, example in examples] == [
        (0, 5),
        (1, 0),
        (2, 9),
    ]
    for (_, example), image in zip(examples, images, strict=True):
        np.testing.assert_array_equal(
            decode(example["image"], cv2.IMREAD_GRAYSCALE), image
        )


def test_cifar10_files_are_parsed(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    record = bytes([7]) + image.transpose(2, 0, 1).tobytes()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(record)
    examples = list(cifar10_examples("test_", [tmp_path / "a", tmp_path / "b"]))
    assert [example["id"] for _, example in examples] == ["test_00000", "test_00001"]
    assert examples[1][0] == 1
    assert examples[1][1]["label"] == 7
    blue_green_red = decode(examples[1][1]["image"], cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(blue_green_red[..., ::-1], image)


def test_tfds_stores_mnist_without_tensorflow(idx_files, tmp_path, monkeypatch, capsys):
    image_file, label_file, images = idx_files
    builder = tfds.builder("mnist", data_dir=tmp_path, file_format="array_record")
    split = lambda name: tfds.core.SplitGenerator(
        name=name,
        gen_kwargs={
            "num_examples": 3,
            "data_path": image_file,
            "label_path": label_file,
        },
    )
    # Stands for the download.
    builder._split_generators = lambda dl_manager: [split("train"), split("test")]
    monkeypatch.setattr(_official, "_can_reach", lambda host: True)
    prepare(builder)
    assert "downloading" in capsys.readouterr().out
    source = builder.as_data_source(split="test")
    stored = {int(e["label"]): e["image"][..., 0] for e in source}
    np.testing.assert_array_equal(stored[9], images[2])


def test_a_failing_download_says_what_to_do(tmp_path, monkeypatch):
    builder = tfds.builder("mnist", data_dir=tmp_path, file_format="array_record")

    def fail(dl_manager):
        raise ConnectionError("the server is gone")

    builder._split_generators = fail
    monkeypatch.setattr(_official, "_can_reach", lambda host: True)
    with pytest.raises(ValueError, match=r"server is gone.*--data-dir"):
        prepare(builder)
