import hashlib
import pickle

import numpy as np
import pytest

from hpfree_jax.data import _imagenet16, _official, load_dataset  # noqa: F401
from hpfree_jax.data._pickles import read_pickle


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files of the authors' format, with their checksums in the place of theirs."""
    folder = tmp_path / "downloads" / "manual" / "imagenet16"
    folder.mkdir(parents=True)

    def write(name, content, protocol=2):
        data = pickle.dumps(content, protocol)
        (folder / name).write_bytes(data)
        split = "test" if name == "val_data" else "train"
        checksum = hashlib.md5(data).hexdigest()
        monkeypatch.setitem(_imagenet16.CHECKSUMS, split, {name: checksum})

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (130, 768), np.uint8)
    for name in _imagenet16.CHECKSUMS["train"]:
        (folder / name).write_bytes(b"there")
    write("train_data_batch_1", {"data": images, "labels": list(range(1, 131))})
    write("val_data", {"data": images[:3], "labels": [120, 121, 7], "mean": images[0]})
    return tmp_path, images, write


def test_the_first_120_classes_are_kept(files):
    folder, images, _ = files
    data = load_dataset("imagenet16_120", folder)
    assert data.train_images.shape == (120, 16, 16, 3)
    assert sorted(data.train_labels) == list(range(120))
    assert sorted(data.test_labels) == [6, 119]
    for image, label in zip(data.train_images, data.train_labels, strict=True):
        # The files hold all red, then all green, then all blue values of an image.
        np.testing.assert_array_equal(image[..., 0].ravel(), images[label][:256])
        np.testing.assert_array_equal(image[..., 2].ravel(), images[label][512:])
    np.testing.assert_allclose(data.mean, [122.68, 116.66, 104.01])
    assert data.augmentation == (2, True)
    assert load_dataset("imagenet16_120", folder).num_train == 120  # from TFDS's folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 767), np.uint8), "labels": [1, 2]}, r"shape \(2, 767\)"),
        ({"data": np.zeros((2, 768)), "labels": [1, 2]}, "type float64"),
        ({"data": np.zeros((2, 768), np.uint8), "labels": [1]}, "for 1 labels"),
        ({"data": np.zeros((1, 768), np.uint8), "labels": [0]}, "outside of 1 to 1000"),
        ({"data": np.zeros((1, 768), np.uint8)}, "does not hold `data` and `labels`"),
        ({"data": print, "labels": [1]}, r"print.* nothing else is unpickled"),
    ],
)
def test_a_damaged_file_ends_the_preparation(files, content, message):
    folder, _, write = files
    write("val_data", content)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset("imagenet16_120", folder)
    assert "val_data" in str(error.value)
    assert not (folder / "imagenet16_120" / "1.0.0").exists()


def test_a_changed_byte_ends_the_preparation(files):
    folder, *_ = files
    path = folder / "downloads" / "manual" / "imagenet16" / "val_data"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="val_data is damaged: its MD5 is"):
        load_dataset("imagenet16_120", folder)


def test_missing_files_are_asked_for(tmp_path):
    message = r"put imagenet16/train_data_batch_1, .* \(11 files\) .*downloads/manual"
    with pytest.raises(ValueError, match=message):
        load_dataset("imagenet16_120", tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_read_from_every_kind_of_pickle(tmp_path, protocol):
    content = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "n": np.float64(2)}
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(path)
    np.testing.assert_array_equal(found["data"], content["data"])
    assert found["n"] == 2


def test_pickles_of_old_numpy_and_python_2_are_read(tmp_path):
    """Their arrays name numpy.core, and their bytes are strings."""
    content = pickle.dumps(np.arange(200, dtype=np.uint8), 2)
    old = content.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
    assert old != content
    (tmp_path / "file").write_bytes(old)
    np.testing.assert_array_equal(read_pickle(tmp_path / "file"), np.arange(200))
    python_2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff"
        b"\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x07\xfftb."
    )
    (tmp_path / "file").write_bytes(python_2)
    assert read_pickle(tmp_path / "file").tolist() == [7, 255]
