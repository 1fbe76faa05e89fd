import json
import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.data import load_tokens
from hpfree_jax.data._texts import character_dataset

SHARED = Path(__file__).parents[3] / "shared" / "tfds"


@pytest.fixture
def token_dir(tmp_path):
    """Tokens 0 to 99 in order, so that a window shows where it is."""
    np.arange(100, dtype="<u2").tofile(tmp_path / "train.bin")
    np.arange(50, dtype="<u2").tofile(tmp_path / "val.bin")
    return tmp_path


def test_windows_on_the_device_are_slices_of_the_text(token_dir):
    data = load_tokens(token_dir, context=8)
    assert (data.num_classes, data.input_shape, data.is_resident) == (100, (8,), True)
    assert (data.num_train, data.num_test) == (99 // 8, 49 // 8)
    starts = data.epoch_order(jax.random.key(0))
    assert starts.shape == (12,)
    batch = jax.jit(data.take)(jnp.asarray(data.train_arrays), starts)
    assert batch.inputs.dtype == batch.targets.dtype == jnp.int32
    np.testing.assert_array_equal(batch.inputs, starts[:, None] + np.arange(8))
    np.testing.assert_array_equal(batch.targets, starts[:, None] + np.arange(1, 9))
    np.testing.assert_array_equal(data.prepare(batch.inputs), batch.inputs)


def test_windows_begin_anywhere_they_fit(token_dir):
    """As in nanoGPT: at 0 to tokens - context - 1, the last target being the last."""
    np.arange(95, dtype="<u2").tofile(token_dir / "val.bin")
    data = load_tokens(token_dir, context=90)
    starts = [int(data.epoch_order(jax.random.key(i))[0]) for i in range(150)]
    assert set(starts) == set(range(10))
    stream = data.train_batches(64, seed=0)
    streamed = {int(x) for _ in range(3) for x in next(stream).inputs[:, 0]}
    assert streamed == set(range(10))


def test_the_validation_text_is_covered_once(token_dir):
    data = load_tokens(token_dir, context=8)
    device = data.take(jnp.asarray(data.test_arrays), data.test_order())
    np.testing.assert_array_equal(np.ravel(device.inputs), np.arange(48))
    host = list(data.test_batches(4))
    assert [batch.inputs.shape for batch in host] == [(4, 8)] * 2
    weights = np.concatenate([batch.weights for batch in host])
    assert weights.tolist() == [1] * 6 + [0] * 2
    inputs = np.concatenate([batch.inputs for batch in host])
    np.testing.assert_array_equal(inputs[:6], device.inputs)


def test_a_stream_of_windows_is_sharded_and_continues(token_dir):
    data = load_tokens(token_dir, context=8)
    whole = data.train_batches(6, seed=2)
    parts = [data.train_batches(6, seed=2, process=(i, 2)) for i in range(2)]
    for _ in range(4):
        expected = next(whole)
        halves = [next(part) for part in parts]
        joined = jax.tree.map(lambda *x: np.concatenate(x), *halves)
        jax.tree.map(np.testing.assert_array_equal, joined, expected)
        np.testing.assert_array_equal(expected.targets, expected.inputs + 1)
    state = json.loads(json.dumps(whole.get_state()))
    expected = next(whole)
    resumed = data.train_batches(6, seed=2)
    resumed.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(resumed), expected)
    with pytest.raises(ValueError, match="`context` 8, this run has 9"):
        load_tokens(token_dir, context=9).train_batches(6, seed=2).set_state(state)


@pytest.mark.parametrize("kind", ["json", "pkl"])
def test_the_vocabulary_is_that_of_the_meta_file(token_dir, kind):
    itos = {i: chr(200 + i) for i in range(120)}
    meta = {"vocab_size": 120, "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    if kind == "json":
        (token_dir / "meta.json").write_text('{"vocab_size": 120}')
    else:
        (token_dir / "meta.pkl").write_bytes(pickle.dumps(meta))
    data = load_tokens(token_dir, context=8)
    assert data.num_classes == 120
    if kind == "pkl":
        assert data.decode(data.encode("éèê")) == "éèê"
        assert data.encode("é").tolist() == [ord("é") - 200]
    else:
        with pytest.raises(ValueError, match="are no characters; use the tokenizer"):
            data.decode([1])


class Malicious:
    def __reduce__(self):
        return os.mkdir, (Malicious.target,)


def test_a_pickle_is_never_run(token_dir):
    Malicious.target = str(token_dir / "run")
    content = pickle.dumps({"vocab_size": 120, "itos": Malicious()})
    (token_dir / "meta.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"posix\.mkdir|nt\.mkdir"):
        load_tokens(token_dir)
    assert not (token_dir / "run").exists()
    pickle.loads(content)  # it would have been
    assert (token_dir / "run").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.bin", None, r"no token file .*train\.bin"),
        ("val.bin", None, r"no token file .*val\.bin"),
        ("val.bin", b"", "0 bytes, which are not whole"),
        ("val.bin", b"abc", "3 bytes, which are not whole 16-bit tokens"),
        ("val.bin", b"abcd", "`context` 8 does not fit .* 2 tokens; take at most 1"),
        (
            "meta.json",
            b'{"vocab_size": 99}',
            "tokens up to 99, but .* vocabulary of 99",
        ),
        ("meta.json", b'{"vocab_size": "x"}', "no `vocab_size` from 1 to 65536"),
        ("meta.json", b"[1]", "no `vocab_size`"),
        ("meta.json", b"{", "cannot be read as JSON"),
        ("meta.pkl", b"garbage", "is no pickle of plain values"),
    ],
)
def test_damaged_files_are_named(token_dir, file, content, message):
    if content is None:
        (token_dir / file).unlink()
    else:
        (token_dir / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokens(token_dir, context=8)


def test_characters_are_numbered_in_order():
    data = character_dataset("t", "hello wörld", "low", 2)
    assert data.vocabulary == " dehlorwö"
    assert data.decode(data.train_tokens) == "hello wörld"
    assert data.encode("low").tolist() == data.test_tokens.tolist() == [4, 5, 7]
    with pytest.raises(ValueError, match="has no character 'x'"):
        data.encode("lox")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_shakespear", "unknown text .*did you mean 'tiny_shakespeare'"),
        ("mnist", "holds images: open it with data.load_dataset"),
        ("/no/where", "there is no folder /no/where"),
    ],
)
def test_what_is_no_text_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        load_tokens(name)


def test_shakespeare_has_65_characters():
    if not (SHARED / "tiny_shakespeare").is_dir():
        pytest.skip(f"no prepared copy of tiny_shakespeare at {SHARED}")
    data = load_tokens("tiny_shakespeare", SHARED)
    assert (data.num_classes, data.input_shape) == (65, (256,))
    assert (len(data.train_tokens), len(data.test_tokens)) == (1_003_854, 55_770)
    # The first tokens of nanoGPT's train.bin: "First Citizen:\n".
    first = [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52, 10, 0]
    assert data.train_tokens[:15].tolist() == first
    assert data.decode(first) == "First Citizen:\n"


@pytest.mark.parametrize("name", ["tiny_shakespeare", "mnist"])
def test_a_name_of_the_table_is_never_taken_for_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    folder.mkdir()
    for file in ("train.bin", "val.bin"):
        np.arange(5, dtype="<u2").tofile(folder / file)
    data = load_tokens(f"./{name}", context=2)
    assert data.train_tokens.tolist() == [0, 1, 2, 3, 4]
    expected = "is not prepared in" if name == "tiny_shakespeare" else "holds images"
    monkeypatch.setattr("hpfree_jax.data._official.prepare", refuse)
    with pytest.raises(ValueError, match=expected):
        load_tokens(name, tmp_path)


def refuse(builder):
    raise ValueError(f"{builder.name} is not prepared in the table's place")
