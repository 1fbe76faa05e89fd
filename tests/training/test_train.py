import json
import math
import signal

import jax
import numpy as np
import pytest

from hpfree_jax.data import Examples, load_dataset
from hpfree_jax.training import DivergedError, resume, train
from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._progress import Progress
from hpfree_jax.training._state import prepare
from hpfree_jax.training._steps import ResidentData, make_epoch_order, make_step
from tests.training.conftest import read_metrics, same


def test_a_run_leaves_its_files(config):
    result = train(config(epochs=3))
    directory = result.directory
    names = {path.name for path in directory.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "curves.png", "summary.json", "checkpoints"),
        ".lock",
    }
    stored = json.loads((directory / "config.json").read_text())
    assert stored["config"]["width"] == 8
    assert stored["seed"] == 0
    assert {"jax", "jaxlib", "optax", "flax", "python", "hpfree_jax"} <= set(
        stored["versions"]
    )
    assert stored["versions"]["jax"] == jax.__version__
    assert stored["device"] == "cpu"
    assert stored["command"]

    lines = read_metrics(directory)
    # Windows of 2 steps, cut at the end of the epoch of 5, then an evaluation.
    train_steps = [line["step"] for line in lines if "loss" in line]
    assert train_steps == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert [line["step"] for line in lines if "test_loss" in line] == [5, 10, 15]
    assert [line["epoch"] for line in lines if "loss" in line][:3] == [0.4, 0.8, 1.0]
    assert all(line["learning_rate"] > 0 for line in lines if "loss" in line)
    assert lines[-1]["test_loss"] < lines[3]["test_loss"]

    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["step"] == result.step == 15
    assert summary["num_params"] == 64 * 8 + 8 * 10
    assert (
        summary["test_accuracy"] == result.test_accuracy == lines[-1]["test_accuracy"]
    )
    assert summary["images_per_second"] > 0
    checkpoints = sorted(p.name for p in (directory / "checkpoints").iterdir())
    assert checkpoints == ["10", "15"]


@pytest.mark.parametrize("changes", [{}, {"method": "adamw", "schedule": "cosine"}])
@pytest.mark.parametrize("step", [5, 7])  # at the end of an epoch, and within one
def test_an_interrupted_run_continues_exactly(config, interrupt_at, step, changes):
    whole = train(config("whole", **changes))
    with interrupt_at(step):
        part = train(config("part", **changes))
    assert part.interrupted
    assert part.step == step
    assert json.loads((part.directory / "summary.json").read_text())["status"] == (
        "interrupted"
    )
    rest = resume(part.directory)
    assert not rest.interrupted
    assert same(rest, whole)
    assert read_metrics(rest.directory) == read_metrics(whole.directory)
    sessions = json.loads((rest.directory / "config.json").read_text())["sessions"]
    assert [session["first_step"] for session in sessions] == [0, step]


def test_a_hypergradient_run_continues_exactly_and_validates(config, interrupt_at):
    """Held out: 0.2 of 1,438 examples, a batch of them, so that passes go round."""
    changes = {"method": "marthe", "validation_fraction": 0.2}
    changes |= {"depth": 1, "width": None}
    whole = train(config("whole", epochs=3, **changes))
    with interrupt_at(6):  # of 4 steps an epoch
        part = train(config("part", epochs=3, **changes))
    assert (part.step, part.interrupted) == (6, True)
    rest = resume(part.directory)
    assert same(rest, whole)
    lines = read_metrics(rest.directory)
    assert lines == read_metrics(whole.directory)
    names = {"hypergradient", "discount", "hyper_learning_rate", "learning_rate"}
    assert all(names <= line.keys() for line in lines if "loss" in line)
    evaluations = [line for line in lines if "test_loss" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 12]
    summary = json.loads((rest.directory / "summary.json").read_text())
    for key in ("validation_loss", "validation_accuracy"):
        assert summary[key] == evaluations[-1][key] == getattr(whole, key)
    assert len(whole.task.held_out.labels) == 288


def test_any_method_can_hold_data_out(config):
    result = train(config(validation_fraction=0.01, epochs=1))
    (line,) = [x for x in read_metrics(result.directory) if "test_loss" in x]
    assert result.validation_accuracy == line["validation_accuracy"]
    assert result.validation_accuracy * 14 == pytest.approx(
        round(result.validation_accuracy * 14)
    )
    with pytest.raises(ValueError, match="`validation_fraction` cannot become"):
        resume(result.directory, {"validation_fraction": 0.5, "epochs": 2})


def test_an_interruption_within_a_window_keeps_its_metrics(config, monkeypatch):
    """Windows of 4 steps, stopped after step 3: the mean must cover all four."""
    whole = train(config("whole", log_every=4))
    advance = Progress.advance
    count = [0]

    def advance_and_interrupt(self, num_steps):
        advance(self, num_steps)
        count[0] += num_steps
        if count[0] == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "advance", advance_and_interrupt)
    part = train(config("part", log_every=4))
    assert part.step == 3
    assert read_metrics(part.directory) == []
    rest = resume(part.directory)
    assert same(rest, whole)
    assert read_metrics(rest.directory) == read_metrics(whole.directory)


def test_a_crash_after_a_checkpoint_continues_exactly(config, interrupt_at):
    """A second signal stops at once: the lines since the checkpoint come again."""
    whole = train(config("whole"))
    with interrupt_at(9, times=2), pytest.raises(KeyboardInterrupt):
        train(config("part"))
    directory = whole.directory.parent / "part"
    assert [line["step"] for line in read_metrics(directory)] == [2, 4, 5, 5, 7, 9]
    rest = resume(directory)
    assert same(rest, whole)
    assert read_metrics(directory) == read_metrics(whole.directory)


def test_a_run_without_any_checkpoint_starts_over(config, interrupt_at):
    whole = train(config("whole"))
    with interrupt_at(2, times=2), pytest.raises(KeyboardInterrupt):
        train(config("part"))
    directory = whole.directory.parent / "part"
    assert not list((directory / "checkpoints").iterdir())
    assert same(resume(directory), whole)
    assert read_metrics(directory) == read_metrics(whole.directory)


def test_a_finished_run_can_be_made_longer(config):
    whole = train(config("whole", epochs=3))
    train(config("part", epochs=2))
    directory = whole.directory.parent / "part"
    with pytest.raises(ValueError, match=r"is finished.*--epochs 4"):
        resume(directory)
    rest = resume(directory, {"epochs": 3})
    assert same(rest, whole)
    assert read_metrics(directory) == read_metrics(whole.directory)


def test_calls_of_several_steps_give_the_same_run(config):
    one, several = train(config("one")), train(config("many", steps_per_call=3))
    lines = [read_metrics(result.directory) for result in (one, several)]
    for a, b in zip(*lines, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    leaves = [jax.tree.leaves(result.state) for result in (one, several)]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_nothing_is_overwritten(config):
    directory = config().output_dir
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and nothing is overwritten"):
        train(config())
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


@pytest.fixture
def diverging(config):
    # The square loss of a linear model grows by a constant factor each step, up to
    # 3.4e38: the step at which it overflows is known from the finite losses before.
    return config(
        method="sgd", learning_rate=30.0, momentum=0.0, depth=1, width=None, epochs=20
    )


def test_a_non_finite_loss_stops_at_its_step(diverging):
    with pytest.raises(DivergedError, match="non-finite loss") as error:
        train(diverging)
    directory = diverging.output_dir
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "diverged"
    step = summary["step"]
    assert f"at step {step};" in str(error.value)
    assert "--learning-rate" in str(error.value)
    # The same steps, one by one.
    dataset = load_dataset("digits")
    task, state = prepare(diverging, dataset)
    examples = Examples(*jax.device_put((dataset.train_images, dataset.train_labels)))
    step_fn, order = make_step(task), make_epoch_order(task)
    for expected in range(1, 101):
        epoch_order = order((expected - 1) // 5)
        state, metrics = step_fn(state, ResidentData(examples, epoch_order), 1)
        if not math.isfinite(metrics[0, 0]):
            break
    assert step == expected > 5

    good = [int(p.name) for p in (directory / "checkpoints").iterdir()]
    assert f"{directory / 'checkpoints' / str(max(good))};" in str(error.value)
    assert max(good) < step
    with Checkpoints(directory / "checkpoints") as checkpoints:
        restored, *_ = checkpoints.restore(max(good), prepare(diverging, dataset)[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.params))
    assert all(line["step"] < step for line in read_metrics(directory))
