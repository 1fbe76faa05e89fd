import json

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from hpfree_jax.data import load_dataset, open_stream
from tests.data.conftest import jpeg, photograph


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    load_dataset("digits", folder)
    return folder


def fingerprints(batch):
    return [image.tobytes() for image in np.asarray(batch.inputs)]


def test_an_epoch_visits_every_example_once_in_a_new_order(digits_dir):
    stream = open_stream("digits", digits_dir).train_batches(100, seed=1)
    memory = load_dataset("digits", digits_dir)
    pairs = lambda images, labels: [
        (image.tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    ]
    stored = sorted(pairs(memory.train_images, memory.train_labels))
    epochs = []
    for _ in range(2):
        batches = [next(stream) for _ in range(1438 // 100)]
        epochs.append([p for b in batches for p in pairs(b.inputs, b.targets)])
        assert len(epochs[-1]) == 1400
        left = list(stored)
        for pair in sorted(epochs[-1]):
            left.remove(pair)  # raises if it came more often than it is stored
        assert len(left) == 38
    assert epochs[0] != epochs[1]
    assert np.asarray(batches[0].weights).tolist() == [1] * 100


def test_order_depends_on_the_seed_and_on_nothing_else(digits_dir):
    data = open_stream("digits", digits_dir)
    one, same, other = (
        fingerprints(next(data.train_batches(64, seed, workers=workers)))
        for seed, workers in ((0, 1), (0, 3), (1, 1))
    )
    assert one == same
    assert one != other


def test_processes_share_a_batch(digits_dir):
    data = open_stream("digits", digits_dir)
    whole = data.train_batches(60, 0, process=(0, 1))
    parts = [data.train_batches(60, 0, process=(i, 3)) for i in range(3)]
    for _ in range(3):
        expected = fingerprints(next(whole))
        assert [f for part in parts for f in fingerprints(next(part))] == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_continues_with_the_next_example(imagenet_dir, workers):
    """With crops, which are random: bit for bit, from a state that was text."""
    make = lambda: open_stream("imagenet2012", imagenet_dir).train_batches(
        4, seed=5, workers=workers
    )
    stream = make()
    for _ in range(5):
        next(stream)  # beyond an epoch of three batches
    text = json.dumps(stream.get_state())
    expected = [next(stream) for _ in range(3)]
    resumed = make()
    next(resumed)
    resumed.set_state(json.loads(text))
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, batch, next(resumed))
    assert resumed.get_state() == stream.get_state()
    assert resumed.stall_seconds > 0


def test_imagenet_is_prepared_and_read_without_tensorflow(imagenet_dir):
    data = open_stream("imagenet2012", imagenet_dir)
    assert (data.num_train, data.num_test, data.num_classes) == (15, 4, 1000)
    batch = next(data.train_batches(15, seed=0))
    assert batch.inputs.shape == (15, 224, 224, 3)
    assert batch.inputs.dtype == np.uint8
    assert sorted(batch.targets.tolist()) == [0] * 5 + [1] * 5 + [2] * 5
    # The same image never has the same crop again.
    stream = data.train_batches(15, seed=0)
    seen = {f for _ in range(2) for f in fingerprints(next(stream))}
    assert len(seen) == 30
    x = jax.jit(data.prepare)(batch.inputs, jax.random.key(0))
    assert x.dtype == np.float32
    (tests,) = data.test_batches(4)
    # ILSVRC2012_val_00000001 ... 4: sea snake, alp, Shetland sheepdog, soup bowl.
    source = tfds.builder("imagenet2012", data_dir=imagenet_dir)
    source = source.as_data_source(split="validation")
    label_of = {e["file_name"].decode()[-6:-5]: int(e["label"]) for e in source}
    assert label_of == {"1": 65, "2": 970, "3": 230, "4": 809}
    assert sorted(tests.targets.tolist()) == sorted(label_of.values())
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (tests.inputs / 255 - mean) / std
    np.testing.assert_allclose(data.prepare(tests.inputs), expected, atol=1e-4)


def good(number):
    return [(jpeg(photograph(i, 20, 24)), i) for i in range(number)]


def test_damaged_examples_are_skipped_and_counted(open_photographs, capfd):
    examples = good(12)
    cut = examples[3][0]
    examples[3] = (cut[: len(cut) // 2], 3)
    examples[5] = (b"no image", 5)
    examples[7] = (examples[7][0], -1)
    data = open_photographs(examples)
    stream = data.train_batches(12, seed=0)
    labels = np.concatenate([next(stream).targets for _ in range(3)])
    readable = set(range(12)) - {3, 5, 7}
    assert set(labels.tolist()) == readable
    assert len(data.train.skipped) == 3
    reasons = sorted(data.train.skipped.values())
    assert reasons == [
        "label -1 is not one of 0 to 999",
        "no image that OpenCV can decode",
        "the JPEG image has no end",
    ]
    report = data.train.report()
    assert report.startswith(
        "3 of 12 examples of tiny_photographs/train cannot be read"
    )
    batches = list(data.test_batches(8))
    weights = np.concatenate([batch.weights for batch in batches])
    found = np.concatenate([batch.targets for batch in batches])[weights > 0]
    assert len(weights) == 16
    assert sorted(found.tolist()) == sorted(readable)
    assert len(data.test.skipped) == 3
    capfd.readouterr()  # what OpenCV says of damaged images


def test_bytes_that_change_on_the_disk_cost_few_examples(open_photographs, tmp_path):
    data = open_photographs(good(30))
    assert data.train.report() is None
    (shard,) = tmp_path.rglob("*-train.array_record*")
    content = bytearray(shard.read_bytes())
    place = int(
        np.median(np.flatnonzero(np.frombuffer(content, np.uint8)))
    )  # the end of the file is zeros
    content[place : place + 20] = bytes(255 - b for b in content[place : place + 20])
    shard.write_bytes(bytes(content))
    damaged = open_stream("tiny_photographs", tmp_path)
    labels = next(damaged.train_batches(30, seed=0)).targets
    assert len(damaged.train.skipped) == 1
    assert len(set(labels.tolist())) == 29
    assert "Corrupted" in damaged.train.report()


def test_nothing_but_damage_is_an_error(open_photographs):
    data = open_photographs([(b"no image", 1)] * 4)
    with pytest.raises(ValueError, match=r"4 examples in a row .* prepare it again"):
        next(data.train_batches(2, seed=0))


def test_processes_share_the_test_examples(imagenet_dir):
    data = open_stream("imagenet2012", imagenet_dir)
    (whole,) = data.test_batches(8)
    parts = [list(data.test_batches(8, process=(i, 2))) for i in range(2)]
    assert [len(part) for part in parts] == [1, 1]
    labels = np.concatenate([part[0].targets for part in parts])
    np.testing.assert_array_equal(labels, whole.targets)
    assert whole.weights.sum() == 4


def test_a_state_of_other_batches_is_refused(digits_dir):
    data = open_stream("digits", digits_dir)
    state = data.train_batches(60, 0).get_state()
    with pytest.raises(ValueError, match=r"`batch_size` 60, this run has 30"):
        data.train_batches(30, 0).set_state(state)
    with pytest.raises(ValueError, match=r"`processes` 1, this run has 2"):
        data.train_batches(60, 0, process=(0, 2)).set_state(state)
    with pytest.raises(ValueError, match="must have batch_size"):
        data.train_batches(60, 0).set_state({"next_batch": 3})
    with pytest.raises(ValueError, match="`next_batch` must be an integer"):
        data.train_batches(60, 0).set_state({**state, "next_batch": -1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 2000}, "larger than the 1438 training examples"),
        ({"batch_size": 0}, "`batch_size` 0 must be a positive multiple"),
        ({"batch_size": 9, "process": (0, 2)}, "multiple of the 2 processes"),
        ({"process": (2, 2)}, r"`process` must be .* \(2, 2\)"),
        ({"seed": -1}, "`seed` must lie in"),
        ({"workers": 0}, "`workers` must be 1 or more, got 0"),
    ],
)
def test_impossible_arguments_are_named(digits_dir, arguments, message):
    data = open_stream("digits", digits_dir)
    with pytest.raises(ValueError, match=message):
        data.train_batches(**{"batch_size": 8, "seed": 0, **arguments})


def test_a_stream_has_the_statistics_of_the_dataset_in_memory(digits_dir):
    stream, memory = (f("digits", digits_dir) for f in (open_stream, load_dataset))
    np.testing.assert_array_equal(stream.mean, memory.mean)
    np.testing.assert_array_equal(stream.std, memory.std)
    pixels = memory.train_images.astype(np.float64)
    np.testing.assert_allclose(stream.mean, [pixels.mean()], rtol=1e-7)
    np.testing.assert_allclose(stream.std, [pixels.std()], rtol=1e-7)
