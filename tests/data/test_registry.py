import socket
from pathlib import Path

import numpy as np
import pytest

from hpfree_jax.data import (
    DATASETS,
    list_datasets,
    load_dataset,
    open_stream,
    print_datasets,
)

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


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
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


@pytest.mark.parametrize(
    ("open_", "name", "message"),
    [
        (load_dataset, "imagenet2012", "too large for the memory.*data.open_stream"),
        (load_dataset, "tiny_shakespeare", "is a text.*data.load_tokens"),
        (open_stream, "tiny_shakespeare", "is a text.*data.load_tokens"),
        (open_stream, "imagnet2012", "did you mean 'imagenet2012'"),
    ],
)
def test_what_needs_another_function_is_named(open_, name, message):
    with pytest.raises(ValueError, match=message):
        open_(name)


@pytest.fixture
def digits_dir(tmp_path):
    load_dataset("digits", tmp_path)
    return tmp_path


def damage(folder, num_places):
    """Inverts a byte at places that are spread over the training data."""
    (shard,) = folder.rglob("digits-train.array_record*")
    content = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(content)
    used = used[len(used) // 4 : -len(used) // 4]  # what is between head and index
    content[used[:: len(used) // num_places]] ^= 255
    shard.write_bytes(content.tobytes())


def test_damaged_examples_are_left_out_and_counted(digits_dir, caplog):
    damage(digits_dir, 3)
    dataset = load_dataset("digits", digits_dir)
    missing = 1438 - dataset.num_train
    assert 1 <= missing <= 4
    (note,) = dataset.skipped
    assert note.startswith(f"{missing} of 1438 examples of digits/train cannot be read")
    assert caplog.messages == [note]
    assert dataset.damage() == [note]
    assert dataset.train_images.shape[0] == len(dataset.train_labels)


def test_a_tenth_of_the_examples_damaged_is_an_error(digits_dir):
    damage(digits_dir, 500)
    with pytest.raises(ValueError, match=r"examples of digits/train cannot .* move"):
        load_dataset("digits", digits_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_shape": (28, 28, 1)},
            r"`image` .*\(8, 8, 1\).*, expected .*28, 28, 1",
        ),
        ({"num_classes": 11}, "feature `label` .*num_classes=10.*, expected one of 11"),
    ],
)
def test_a_feature_that_does_not_fit_is_named(digits_dir, monkeypatch, change, message):
    monkeypatch.setitem(DATASETS, "digits", DATASETS["digits"]._replace(**change))
    with pytest.raises(ValueError, match=message):
        load_dataset("digits", digits_dir)


def test_a_text_is_not_taken_for_images(monkeypatch):
    if not (SHARED / "tiny_shakespeare").is_dir():
        pytest.skip(f"no prepared copy of tiny_shakespeare at {SHARED}")
    entry = DATASETS["tiny_shakespeare"]._replace(
        kind="images", open=DATASETS["digits"].open, input_shape=(8, 8, 1)
    )
    monkeypatch.setitem(DATASETS, "tiny_shakespeare", entry)
    with pytest.raises(ValueError, match=r"no feature `image` \(it has `text`\)"):
        load_dataset("tiny_shakespeare", SHARED)


def test_the_listing_says_what_is_prepared(digits_dir, capsys):
    table = list_datasets(digits_dir)
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["name"] == list(DATASETS)
    prepared = dict(zip(columns["name"], columns["prepared"], strict=True))
    assert {name for name, word in prepared.items() if word == "yes"} == {"digits"}
    places = dict(zip(columns["name"], columns["place"], strict=True))
    assert places["digits"] == str(digits_dir / "digits" / "1.0.0")
    print_datasets(digits_dir)
    lines = capsys.readouterr().out.splitlines()
    assert any("imagenet2012" in line and "155 GB" in line for line in lines)
    with pytest.raises(ValueError, match="is no directory"):
        list_datasets("/no/such/place")


def test_the_table_agrees_with_the_builders_of_tfds():
    import tensorflow_datasets as tfds

    for name, entry in DATASETS.items():
        if name == "digits":
            continue
        if name == "imagenet16_120":
            import hpfree_jax.data._imagenet16  # noqa: F401
        builder = tfds.builder(name, data_dir="/no/such/place")
        assert str(builder.info.version) == entry.version, name
        features = builder.info.features
        if entry.kind != "tokens":
            assert features["label"].num_classes == entry.num_classes
            assert features["image"].shape == (entry.stored_shape or entry.input_shape)


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
