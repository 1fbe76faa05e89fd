"""The default method of `hpfree train`: hp.auto, and its neighbour agd_spectral."""

import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax import _auto
from hpfree_jax.cli import main
from hpfree_jax.training import build_optimizer, resume, train
from hpfree_jax.training._state import prepare
from tests.training.conftest import TINY, read_metrics, same

NUM_STEPS = 10  # of TINY: 5 an epoch


def test_a_run_without_a_method_is_auto_and_its_rate_falls_to_zero(tmp_path, capsys):
    args = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    run = ["train", *args, f"--output-dir={tmp_path / 'run'}"]
    assert main(run) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["method"] == "auto"
    lines = read_metrics(tmp_path / "run")
    rates = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    peak = _auto.RATE / TINY["depth"]
    # A line has the mean over the steps since the line before it.
    windows = zip([0, *rates], rates, strict=False)
    expected = {
        end: peak * (1 - np.mean(range(begin, end)) / NUM_STEPS)
        for begin, end in windows
    }
    assert rates == pytest.approx(expected, rel=1e-5)
    assert max(rates) == NUM_STEPS
    capsys.readouterr()
    assert main(["train", f"--resume={tmp_path / 'run'}", "--epochs=3"]) == 2
    error = capsys.readouterr().err
    assert "`epochs` cannot become 3" in error
    assert "scheduled for that length" in error


@pytest.mark.parametrize("option", ["gain", "learning-rate", "momentum"])
def test_auto_has_nothing_to_set(option, tmp_path, capsys):
    args = ["train", f"--{option}=0.5", f"--output-dir={tmp_path / 'run'}"]
    assert main(args) == 2
    name = option.replace("-", "_")
    assert f"`{name}` 0.5 does not apply to method auto" in capsys.readouterr().err


def test_an_interrupted_auto_run_continues_exactly(config, interrupt_at):
    """With a matrix of which only leading directions are orthogonalised."""
    changes = {"method": "auto", "depth": 3, "width": 64, "batch_size": 144}
    whole = train(config("whole", **changes))
    assert whole.state.opt_state.direction.bases.size > 1
    assert not whole.state.opt_state.past_horizon
    with interrupt_at(9):
        part = train(config("part", **changes))
    assert (part.step, part.interrupted) == (9, True)
    rest = resume(part.directory)
    assert same(rest, whole)
    assert read_metrics(rest.directory) == read_metrics(whole.directory)


def test_auto_is_told_the_batch_size_and_the_length(config, digits):
    """More examples pay for whole orthogonalisation."""
    settings = {"method": "auto", "depth": 3, "width": 64}
    for batch_size in (4, 1024):
        task, state = prepare(config(batch_size=batch_size, **settings), digits)
        # 64 x 64: 18 * 64 / (3 * batch_size) of the gradient, by hand.
        is_expensive = 384 / batch_size > _auto.SHARE and _auto.MIN_RANK < 64
        assert (state.opt_state.direction.bases is not None) == is_expensive
        assert state.opt_state.learning_rate == pytest.approx(_auto.RATE / 3)
        grads = jax.tree.map(np.ones_like, state.params)
        update = jax.jit(task.optimizer.update)
        total = 2 * task.steps_per_epoch
        _, opt_state = update(grads, state.opt_state, state.params)
        _, opt_state = update(grads, opt_state, state.params)
        rate = _auto.RATE / 3 * (1 - 1 / total)
        assert float(hp.get_learning_rate(opt_state)) == pytest.approx(rate)


def test_agd_spectral_is_agd_with_the_spectral_norm(config, digits):
    task, state = prepare(config(method="agd_spectral"), digits)
    arch = hp.trace_architecture(
        nnx.merge(task.eval_graph, state.params, state.model_state),
        jax.ShapeDtypeStruct((2, *digits.input_shape), np.float32),
    )
    tx = hp.agd(1.0, arch.layout(), norm="spectral", momentum=0.9)
    grads = jax.tree.map(np.ones_like, state.params)
    found, _ = jax.jit(task.optimizer.update)(grads, state.opt_state, state.params)
    expected, _ = jax.jit(tx.update)(grads, tx.init(state.params), state.params)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    plain = build_optimizer("agd", {"momentum": 0.9}, total_steps=10)
    other, _ = jax.jit(plain.update)(grads, plain.init(state.params), state.params)
    assert float(optax.tree.norm(optax.tree.sub(found, other))) > 0
