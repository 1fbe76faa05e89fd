"""Language models: a tiny GPT on a text of a few hundred characters."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpfree_jax.cli import main
from hpfree_jax.data import _tokens, load_tokens
from hpfree_jax.data._texts import character_dataset
from hpfree_jax.training import TrainConfig, resume, train
from hpfree_jax.training import _train as train_module
from hpfree_jax.training._state import prepare
from tests.training.conftest import read_metrics, same

TEXT = "to be or not to be that is the question\n" * 20
CHARACTERS = sorted(set(TEXT))
GPT = {"model": "gpt_char", "depth": 1, "width": 8, "heads": 2, "context": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """nanoGPT's token files: 80 windows of 8 tokens to train, 19 to test."""
    folder = tmp_path_factory.mktemp("text")
    tokens = np.array([CHARACTERS.index(c) for c in TEXT], "<u2")
    tokens[:641].tofile(folder / "train.bin")
    tokens[641:].tofile(folder / "val.bin")
    meta = json.dumps({"vocab_size": len(CHARACTERS)})
    (folder / "meta.json").write_text(meta)
    return folder


@pytest.fixture
def make(folder, tmp_path):
    def make(name="run", **changes):
        settings = {"method": "adamw", "epochs": 2, "batch_size": 16, "log_every": 3}
        settings |= {"dataset": str(folder), "output_dir": tmp_path / name, **GPT}
        return TrainConfig(**{**settings, **changes})

    return make


def test_a_run_measures_perplexity_and_draws_a_text(make, folder):
    result = train(make(sample_tokens=12))
    lines = read_metrics(result.directory)
    (*_, line) = [x for x in lines if "test_loss" in x]
    summary = json.loads((result.directory / "summary.json").read_text())
    assert summary["test_perplexity"] == line["test_perplexity"]
    assert line["test_perplexity"] == pytest.approx(math.exp(line["test_loss"]))
    assert summary["tokens_per_second"] > 0
    assert "images_per_second" not in summary
    # The file has no characters: the numbers of the tokens.
    sample = (result.directory / "sample.txt").read_text()
    assert len(sample.split()) == 12
    assert all(0 <= int(token) < len(CHARACTERS) for token in sample.split())
    # By hand: the mean over all tokens of windows one after another.
    tokens = load_tokens(folder, context=8).test_tokens.astype(int)
    windows = np.stack([tokens[i : i + 9] for i in range(0, len(tokens) - 8, 8)])
    state = result.state
    model = nnx.merge(result.task.eval_graph, state.params, state.model_state)
    scores = np.asarray(model(jnp.asarray(windows[:, :-1])), np.float64)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    picked = np.take_along_axis(scores, windows[:, 1:, None], -1)
    assert line["test_loss"] == pytest.approx(-picked.mean(), rel=1e-5)
    right = np.mean(scores.argmax(-1) == windows[:, 1:])
    assert line["test_accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("is_resident", [True, False])
def test_a_stopped_run_continues_exactly_with_its_dropout(
    make, interrupt_at, monkeypatch, is_resident
):
    if not is_resident:  # as texts beyond the device are: windows come from the file
        monkeypatch.setattr(_tokens, "RESIDENT_BYTES", 0)
    whole = train(make("whole"))
    with interrupt_at(3):
        part = train(make("part"))
    assert (part.step, part.interrupted) == (3, True)
    rest = resume(part.directory)
    keys = jax.tree.leaves(rest.state.model_state)
    assert any(jnp.issubdtype(key.dtype, jax.dtypes.prng_key) for key in keys)
    assert same(rest, whole)
    assert read_metrics(rest.directory) == read_metrics(whole.directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "agd"},
        {"method": "agd", "scan": True, "remat": True, "depth": 2, "tied": False},
        {"method": "hd", "inner": "adam", "accumulate": 2},
        pytest.param(
            {"method": "marthe", "batch_size": 4, "epochs": 4}, marks=pytest.mark.slow
        ),
    ],
)
def test_methods_learn(make, changes):
    lines = read_metrics(train(make(dropout=0.0, **changes)).directory)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_sample_is_drawn_from_the_seed_in_characters(make, monkeypatch):
    text = character_dataset("abc", TEXT, TEXT[:50], context=8)
    monkeypatch.setattr(train_module, "open_dataset", lambda *args: text)
    samples = [
        train(make(str(i), epochs=1, sample_tokens=20, seed=seed)).sample
        for i, seed in enumerate((0, 0, 1))
    ]
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0]) == 20
    assert set(samples[0]) <= set(TEXT)


def test_a_share_of_a_text_is_its_end(folder):
    text = load_tokens(folder, context=8)
    rest, held_out = text.hold_out(0.2, seed=0)
    np.testing.assert_array_equal(rest.train_tokens, text.train_tokens[:513])
    end = text.train_tokens[513:]  # 128 tokens, of which 15 windows are whole
    np.testing.assert_array_equal(held_out.images.ravel(), end[:120])
    np.testing.assert_array_equal(held_out.labels.ravel(), end[1:121])
    with pytest.raises(ValueError, match=r"holds out 6 of the 641 .* `context` of 8"):
        text.hold_out(0.01, seed=0)


def test_a_limited_evaluation_is_spread_over_the_text(folder):
    text = load_tokens(folder, context=8)
    found = text.evaluation_examples(3)
    starts = [0, 6 * 8, 12 * 8]  # of 19 windows
    expected = [text.test_tokens[start : start + 8] for start in starts]
    np.testing.assert_array_equal(found.images, expected)
    assert len(text.evaluation_examples().labels) == 19


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--dataset digits --model gpt_char", "dataset digits does not fit model gpt"),
        ("--dataset tiny_shakespeare", "dataset tiny_shakespeare does not fit model f"),
        ("--dataset no/folder --model gpt_char", "`dataset` no/folder is no folder"),
        ("--dataset {folder} --model gpt_char --loss square", "`loss` square does not"),
        ("--dataset {folder} --model gpt_char --augment", "`augment` does not apply"),
        ("--dataset {folder} --model gpt_char", "`context` 256 does not fit into"),
        ("--dataset {folder} --model gpt2 --heads 5", "multiple of `heads`"),
        ("--sample-tokens 5", "`sample_tokens` 5 does not apply to dataset digits"),
        ("--augment", "`augment` does not apply to dataset digits"),
        ("--model tiny_network --depth 3", "`depth` 3 does not apply to model tiny_ne"),
        ("--dataset cifar10 --model gpt2", "cifar10 does not fit model gpt2: it is im"),
        ("--dataset cifar1", "did you mean 'cifar10' or 'cifar100'?"),
        ("--model gpt --dataset {folder}", "unknown model 'gpt' (did you mean 'gpt2'"),
        ("--method sgd --schedule cosin", "'cosin' (did you mean 'cosine'?)"),
        # Said before 155 GB are asked for.
        (
            "--dataset imagenet2012 --model lenet5",
            "dataset imagenet2012, with examples of shape (224, 224, 3), does not fit "
            "model lenet5: LeNet-5 takes images of at most 32 x 32 pixels",
        ),
        ("--dataset imagenet2012 --model wide_resnet --depth 27", "error: model wide_"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_both(
    folder, tmp_path, capsys, args, message
):
    context = ["--context=8"] if "--heads" in args else []
    output = ["--output-dir", str(tmp_path / "run")]
    args = args.format(folder=folder).split()
    assert main(["train", *args, *context, *output]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_text_beyond_its_vocabulary_is_named(folder, tmp_path, capsys):
    """Every model takes the vocabulary of the data, which must hold its tokens."""
    shutil.copytree(folder, copy := tmp_path / "text")
    (copy / "meta.json").write_text('{"vocab_size": 4}')
    run = tmp_path / "run"
    args = [f"--dataset={copy}", "--model=gpt_char", f"--output-dir={run}"]
    assert main(["train", *args]) == 2
    largest = len(CHARACTERS) - 1
    message = f"{copy} has tokens up to {largest}, but its meta file has a vocabulary"
    assert message in capsys.readouterr().err
    assert not run.exists()


def test_images_that_do_not_fit_a_model_are_named(config, digits):
    model = {"model": "tiny_network", "depth": None, "width": None}
    small = dataclasses.replace(digits, train_images=digits.train_images[:, :6, :6])
    message = r"digits, with examples of shape \(6, 6, 1\), does not fit model tiny_net"
    with pytest.raises(ValueError, match=message):
        prepare(config(**model), small)
    with pytest.raises(ValueError, match=r"^model tiny_network: .*x"):  # for any data
        prepare(config(**model, cell="x"), small)
