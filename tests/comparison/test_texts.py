"""Language models in a comparison: a tiny GPT on a text of a few hundred tokens."""

import dataclasses
import json
import math

import numpy as np
import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison import CompareConfig, TaskSpec, compare
from hpfree_jax.comparison._compare import load_datasets
from hpfree_jax.comparison._runner import Runner
from hpfree_jax.comparison._specs import parse_method
from hpfree_jax.comparison._tables import task_table
from hpfree_jax.training import TrainConfig, train
from hpfree_jax.training.engine import Intervals

GPT = {"depth": 1, "width": 8, "heads": 2, "context": 8}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """nanoGPT's token files: 80 windows of 8 tokens to train, 19 to test."""
    folder = tmp_path_factory.mktemp("text")
    tokens = np.random.default_rng(0).integers(20, size=800).astype("<u2")
    tokens[:641].tofile(folder / "train.bin")
    tokens[641:].tofile(folder / "val.bin")
    return TaskSpec("text", str(folder), "gpt_char", GPT, 16, 10, "cross_entropy")


@pytest.fixture(scope="module")
def runs(task):
    """Two seeds at once, and one after another; with the model's dropout."""
    data = load_datasets([task])[task.name]
    runner = Runner(task, parse_method("adamw"), data, Intervals(task.steps, 5, 5))
    assert not runner.gains_from_vmap()  # on a CPU, where products of tokens are large
    run = lambda *seeds: runner.run(seeds, [{"seed": seed} for seed in seeds])
    return run(3, 4), [*run(3), *run(4)]


def test_a_run_is_what_the_trainer_does(runs, task, tmp_path):
    config = TrainConfig(
        dataset=task.dataset, model="gpt_char", method="adamw", epochs=2,
        batch_size=16, seed=3, log_every=5, output_dir=tmp_path / "run", **GPT,
    )  # fmt: skip
    text = (train(config).directory / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    record = runs[1][0]
    for key in ("step", "loss", "accuracy", "learning_rate"):
        assert record.train[key] == [x[key] for x in lines if "loss" in x]
    for key in ("loss", "accuracy"):
        expected = [x[f"test_{key}"] for x in lines if "test_loss" in x]
        assert record.test[key] == expected


def test_seeds_at_once_are_the_same_runs_as_one_after_another(runs):
    at_once, apart = runs
    assert [record.seeds_at_once for record in (*at_once, *apart)] == [2, 2, 1, 1]
    for one, other in zip(at_once, apart, strict=True):
        for lines, expected in ((one.train, other.train), (one.test, other.test)):
            for key in ("step", "loss", "accuracy"):
                np.testing.assert_allclose(lines[key], expected[key], rtol=1e-5)
    assert apart[0].train["loss"] != apart[1].train["loss"]


@pytest.mark.slow
def test_a_comparison_of_texts_reports_perplexity(task, tmp_path):
    config = CompareConfig(
        methods=("adam", "agd"), models=("gpt_char:depth=1,width=8,heads=2,context=8",),
        datasets=(task.dataset,), batch_size=16, steps=4, seeds=1,
        output_dir=tmp_path / "out",
    )  # fmt: skip
    result = compare(config)
    assert result.summary is not None
    (own,) = result.summary.plan.tasks
    table = task_table(result.summary, own)
    row = dict(zip(table.headings, table.rows[0], strict=True))
    best = min(
        (found.records[0] for found in result.summary.results.values()),
        key=lambda record: record.final_loss,
    )
    perplexity = math.exp(best.final_test_loss)
    assert float(row["test perplexity"]) == pytest.approx(perplexity, rel=5e-3)
    assert "test accuracy, %" not in row
    assert "<th>test perplexity</th>" in (tmp_path / "out/report.html").read_text()


def test_tasks_share_a_text_whatever_their_context(task):
    settings = {**GPT, "context": 16}
    longer = dataclasses.replace(task, name="long", model_settings=settings)
    short, long = load_datasets([task, longer]).values()
    assert (short.input_shape, long.input_shape) == ((8,), (16,))
    assert short.train_tokens is long.train_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("fcn",)}, "dataset .* does not fit model fcn: it is a text"),
        ({"datasets": ("digits",)}, "dataset digits does not fit model gpt_char: it"),
        ({"loss": "square"}, "`loss` square does not apply to dataset .* a text"),
    ],
)
def test_what_does_not_fit_a_text_is_named(task, changes, message):
    settings = {"models": ("gpt_char",), "datasets": (task.dataset,), **changes}
    with pytest.raises(UserError, match=message):
        CompareConfig(**settings).plan()
