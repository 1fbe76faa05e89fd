import socket
from pathlib import Path

import numpy as np
import pytest

from hpfree_jax.data import load_dataset

SHARED = Path(__file__).parents[3] / "shared" / "tfds"


@pytest.mark.parametrize(
    ("name", "data_dir", "message"),
    [
        ("digit", None, "unknown dataset 'digit' .did you mean 'digits'"),
        ("digits", "/no/such/place", "`data_dir` '/no/such/place' is no directory"),
        ("mnist", "/no/such/place", "`data_dir` '/no/such/place' is no directory"),
    ],
)
def test_bad_names_and_directories_are_named(name, data_dir, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, data_dir)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_network_the_error_says_what_to_do(name, tmp_path, monkeypatch):
    def getaddrinfo(*args):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with pytest.raises(ValueError, match=f"{name} is not prepared .*--data-dir") as e:
        load_dataset(name, tmp_path)
    assert "\n" not in str(e.value)


def test_a_damaged_directory_is_named(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    (tmp_path / "digits" / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be stored in or read from") as error:
        load_dataset("digits", tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "num_train", "mean", "std"),
    [
        # The constants that are everywhere in published code, for pixels in [0, 1].
        ("mnist", (28, 28, 1), 60_000, [0.1307], [0.3081]),
        ("cifar10", (32, 32, 3), 50_000, [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]),
    ],
)
def test_official_datasets_are_read(name, shape, num_train, mean, std):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no prepared copy of {name} at {SHARED}")
    dataset = load_dataset(name, SHARED)
    assert dataset.train_images.shape == (num_train, *shape)
    assert dataset.test_images.shape == (10_000, *shape)
    assert dataset.num_classes == 10
    np.testing.assert_array_equal(np.bincount(dataset.test_labels) > 800, True)
    np.testing.assert_allclose(dataset.mean / 255, mean, atol=2e-3)
    np.testing.assert_allclose(dataset.std / 255, std, atol=2e-3)
