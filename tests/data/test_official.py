import io

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hpfree_jax.cli import main
from hpfree_jax.data import _official, load_dataset, load_tokens, open_stream
from hpfree_jax.data._official import (
    cifar10_examples,
    cifar100_examples,
    mnist_examples,
    prepare,
)
from tests.data.conftest import CLASSES, jpeg, photograph, write_archives


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


def test_cifar100_files_begin_with_the_coarse_label(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    record = bytes([19, 99]) + image.transpose(2, 0, 1).tobytes()
    (tmp_path / "train.bin").write_bytes(record * 2)
    (_, first), (key, second) = cifar100_examples("train_", [tmp_path / "train.bin"])
    assert (first["coarse_label"], first["label"], first["id"]) == (
        19,
        99,
        "train_00000",
    )
    assert (key, second["id"]) == (1, "train_00001")
    blue_green_red = decode(second["image"], cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(blue_green_red[..., ::-1], image)


def test_the_text_is_cut_where_tfds_cuts_it(tmp_path, monkeypatch):
    """100 characters: 90 for training, 5 for validation, 5 for tests."""
    text = "".join(chr(ord("0") + i) for i in range(100))
    (tmp_path / "input.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(_official, "_can_reach", lambda host: True)
    download = lambda self, url: tmp_path / url.rsplit("/")[-1]
    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    data = load_tokens("tiny_shakespeare", tmp_path, context=4)
    assert data.decode(data.train_tokens) == text[:90]
    assert data.decode(data.test_tokens) == text[90:95]


def test_four_colours_and_png_become_jpeg(tmp_path):
    """Some images of ImageNet are; TFDS makes them JPEG of three colours, too."""
    pictures = [photograph(i) for i in range(3)]

    def change(files):
        name = f"{CLASSES[0]}_0.JPEG"
        if name not in files:
            return
        buffer = io.BytesIO()
        Image.fromarray(pictures[0]).convert("CMYK").save(buffer, "JPEG", quality=95)
        files[name] = buffer.getvalue()
        png = cv2.imencode(".png", np.ascontiguousarray(pictures[1][..., ::-1]))[1]
        files[f"{CLASSES[0]}_1.JPEG"] = png.tobytes()
        files[f"{CLASSES[0]}_2.JPEG"] = jpeg(pictures[2])

    write_archives(tmp_path, change=change)
    open_stream("imagenet2012", tmp_path)
    source = tfds.builder("imagenet2012", data_dir=tmp_path).as_data_source(
        split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    stored = {example["file_name"].decode(): example["image"] for example in source}
    for i, picture in enumerate(pictures):
        encoded = stored[f"{CLASSES[0]}_{i}.JPEG"]
        with Image.open(io.BytesIO(encoded)) as opened:
            assert (opened.format, opened.mode) == ("JPEG", "RGB")
            pixels = np.asarray(opened, int)
        assert np.abs(pixels - picture).mean() < 4
    assert stored[f"{CLASSES[0]}_2.JPEG"] == jpeg(pictures[2])


def test_a_damaged_image_ends_the_preparation(tmp_path):
    name = f"{CLASSES[1]}_3.JPEG"

    def change(files):
        if name in files:
            files[name] = files[name][:-40]

    write_archives(tmp_path, change=change)
    with pytest.raises(
        ValueError, match=f"the image {name} of .*fetch the archive again"
    ):
        open_stream("imagenet2012", tmp_path)
    assert not (tmp_path / "imagenet2012" / "5.1.0").exists()


def test_missing_archives_are_asked_for(tmp_path):
    message = (
        r"put ILSVRC2012_img_train\.tar, ILSVRC2012_img_val\.tar .*downloads/manual"
    )
    with pytest.raises(ValueError, match=message):
        open_stream("imagenet2012", tmp_path)


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


def store(name, folder, monkeypatch):
    """Prepares three examples a split, as after a download."""
    monkeypatch.setattr(_official, "_can_reach", lambda host: True)
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    if name == "mnist":
        (folder / "images").write_bytes(bytes(16) + image[..., :28, :28, 0].tobytes())
        (folder / "labels").write_bytes(bytes(8) + bytes([5, 0, 9]))
        parts = {"data_path": folder / "images", "label_path": folder / "labels"}
        settings = lambda split: {"num_examples": 3, **parts}
    else:
        (folder / "batch").write_bytes(
            b"".join(bytes([label]) + image[label].tobytes() for label in range(3))
        )
        settings = lambda split: {
            "split_prefix": split,
            "filepaths": [folder / "batch"],
        }
    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    builder._split_generators = lambda dl_manager: [
        tfds.core.SplitGenerator(name=split, gen_kwargs=settings(split))
        for split in ("train", "test")
    ]
    prepare(builder)


def flip(data):
    return bytes(255 - byte for byte in data)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: b"garbage" * 5000, id="garbage"),
        pytest.param(flip, id="flipped"),
        pytest.param(
            lambda data: data[:200] + flip(data[200:900]) + data[900:],
            id="flipped in part",
        ),
        pytest.param(None, id="missing"),
    ],
)
def test_a_damaged_shard_is_named(name, damage, tmp_path, monkeypatch, capsys):
    store(name, tmp_path, monkeypatch)
    assert len(load_dataset(name, tmp_path).train_labels) == 3
    (shard,) = (tmp_path / name).rglob("*-train.array_record*")
    if damage:
        shard.write_bytes(damage(shard.read_bytes()))
    else:
        shard.unlink()
    capsys.readouterr()
    args = ["train", f"--dataset={name}", f"--data-dir={tmp_path}"]
    code = main([*args, "--batch-size=2", f"--output-dir={tmp_path / 'run'}"])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"dataset {name} cannot be stored in or read from {tmp_path}" in err
    assert f"move {tmp_path / name} away to prepare it again, or" in err
    assert "--data-dir" in err
    assert not (tmp_path / "run").exists()
