"""Data that is read while training: the digits as a stream, and a text in its file."""

import json

import numpy as np
import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison import TaskSpec
from hpfree_jax.comparison._compare import load_datasets
from hpfree_jax.comparison._runner import Runner
from hpfree_jax.comparison._specs import parse_method
from hpfree_jax.data import DATASETS, _tokens
from hpfree_jax.training import TrainConfig, train
from hpfree_jax.training.engine import Intervals

SETTINGS = {"depth": 2, "width": 8}
GPT = {"depth": 1, "width": 8, "heads": 2, "context": 8}
IMAGES = TaskSpec("stream", "streamed", "fcn", SETTINGS, 256, 10, "square")


@pytest.fixture(scope="module", autouse=True)
def streamed():
    """The digits read while training, and texts in their files."""
    with pytest.MonkeyPatch.context() as patch:
        entry = DATASETS["digits"]._replace(is_streamed=True)
        patch.setitem(DATASETS, "streamed", entry)
        patch.setattr(_tokens, "RESIDENT_BYTES", 0)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """80 windows of 8 tokens to train, 19 to test."""
    folder = tmp_path_factory.mktemp("text")
    tokens = np.random.default_rng(0).integers(20, size=800).astype("<u2")
    tokens[:641].tofile(folder / "train.bin")
    tokens[641:].tofile(folder / "val.bin")
    return TaskSpec("text", str(folder), "gpt_char", GPT, 16, 10, "cross_entropy")


def run(task, *groups):
    data = load_datasets([task])[task.name]
    runner = Runner(task, parse_method("adamw"), data, Intervals(task.steps, 5, 5))
    assert not runner.gains_from_vmap()
    return [runner.run(seeds, [{"seed": seed} for seed in seeds]) for seeds in groups]


def trained(task, directory):
    """The lines of metrics of the trainer, from seed 3."""
    config = TrainConfig(
        dataset=task.dataset, model=task.model, method="adamw", loss=task.loss,
        epochs=2, batch_size=task.batch_size, seed=3, log_every=5,
        output_dir=directory, **task.model_settings,
    )  # fmt: skip
    text = (train(config).directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def check_same(record, lines):
    for key in ("step", "loss", "accuracy", "learning_rate"):
        assert record.train[key] == [x[key] for x in lines if "loss" in x]
    for key in ("loss", "accuracy"):
        expected = [x[f"test_{key}"] for x in lines if "test_loss" in x]
        assert record.test[key] == expected


def test_a_run_on_a_stream_is_what_the_trainer_does(tmp_path):
    at_once, apart = run(IMAGES, (3, 4), (3,))
    check_same(apart[0], trained(IMAGES, tmp_path / "run"))
    for key in ("loss", "accuracy"):
        one, other = at_once[0].train[key], apart[0].train[key]
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert at_once[0].train["loss"] != at_once[1].train["loss"]


@pytest.mark.slow
def test_a_run_on_a_text_in_its_file_is_what_the_trainer_does(text, tmp_path):
    ((record,),) = run(text, (3,))
    check_same(record, trained(text, tmp_path / "run"))


def test_nothing_can_be_held_out_of_a_stream():
    data = load_datasets([IMAGES])["stream"]
    runner = Runner(IMAGES, parse_method("marthe"), data, Intervals(IMAGES.steps, 5, 5))
    with pytest.raises(
        UserError, match=r"is read while training, and nothing .* take 0"
    ):
        runner.check()
