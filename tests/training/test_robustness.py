"""Damaged files, impossible sizes, two processes and signals at bad moments."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import hpfree_jax.training._session as session_module
import hpfree_jax.training._train as train_module
from hpfree_jax.cli import main
from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._files import lock
from hpfree_jax.training._state import prepare
from tests.training.conftest import TINY, read_metrics

ROOT = Path(__file__).parents[2]
# AGD has no horizon: a finished run can be made longer.
TINY_ARGS = [
    "--method=agd",
    *(f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tfds_directory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *TINY_ARGS, "--output-dir", str(directory)]) == 0
    return directory


@pytest.fixture
def directory(finished, tmp_path):
    """A finished run, with checkpoints at the steps 5 and 10, to be damaged."""
    shutil.copytree(finished, copy := tmp_path / "run")
    file = copy / "config.json"
    stored = json.loads(file.read_text())
    stored["config"]["output_dir"] = str(copy)
    file.write_text(json.dumps(stored))
    return copy


def files_of(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name != ".lock"}


@pytest.fixture
def error_of(capsys):
    """The one line that a failing command prints."""

    def error_of(*args):
        capsys.readouterr()
        code = main(["train", *map(str, args)])
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("hpfree: error: ")
        return err

    return error_of


def garbage(pattern):
    def damage(checkpoint):
        files = [path for path in checkpoint.glob(pattern) if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(b"\x00garbage" * 5)

    return damage


def cut(checkpoint):
    for path in (checkpoint / "state").rglob("d/*"):
        # In half: the last bytes alone may hold nothing that is still referred to.
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_step(checkpoint):
    shutil.rmtree(checkpoint / "state")
    shutil.copytree(checkpoint.parent / "5" / "state", checkpoint / "state")


DAMAGES = {
    "garbage in state": garbage("state/**/*"),
    "garbage in arrays": garbage("state/**/d/*"),
    "garbage in metadata": garbage("state/_METADATA"),
    "garbage in pending": garbage("pending/metadata"),
    "empty pending": lambda path: (path / "pending/metadata").write_text("{}"),
    "no state": lambda path: shutil.rmtree(path / "state"),
    "no pending": lambda path: shutil.rmtree(path / "pending"),
    "cut": cut,
    "state of another step": other_step,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_moved_away(
    directory, error_of, tmp_path, damage
):
    DAMAGES[damage](directory / "checkpoints" / "10")
    before = files_of(directory)
    error = error_of("--resume", directory, "--epochs=3")
    assert f"the checkpoint {directory / 'checkpoints' / '10'} is damaged" in error
    assert "to continue from step 5" in error
    assert files_of(directory) == before
    shutil.move(directory / "checkpoints" / "10", tmp_path / "damaged")
    assert main(["train", "--resume", str(directory), "--epochs=3"]) == 0
    steps = [line["step"] for line in read_metrics(directory) if "loss" in line]
    assert steps == [2, 4, 5, 7, 9, 10, 12, 14, 15]


def test_without_an_older_checkpoint_the_run_begins_anew(directory, error_of):
    shutil.rmtree(directory / "checkpoints" / "5")
    shutil.rmtree(directory / "checkpoints" / "10" / "state")
    assert "to begin at step 0" in error_of("--resume", directory, "--epochs=3")
    shutil.rmtree(directory / "checkpoints" / "10")
    assert main(["train", "--resume", str(directory), "--epochs=3"]) == 0


@pytest.mark.parametrize("width", [10**7, 2**31, 10**12, 2**63, 10**30])
@pytest.mark.parametrize("method", ["agd", "sgd"])
def test_an_impossible_size_is_named(error_of, tmp_path, width, method):
    args = [f"--width={width}", f"--method={method}", "--depth=3"]
    error = error_of(*args, "--output-dir", tmp_path / "run")
    assert "model fcn" in error
    assert "`width`" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("raised", [MemoryError, jax.errors.JaxRuntimeError])
def test_memory_that_ends_in_training_is_named(error_of, tmp_path, monkeypatch, raised):
    def windows(*args, **options):
        raise raised("RESOURCE_EXHAUSTED: out\nof memory")

    monkeypatch.setattr(session_module, "windows", windows)
    error = error_of(*TINY_ARGS, "--output-dir", tmp_path / "run")
    assert "too large" in error
    assert "`batch_size`" in error


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in ("sessions", "versions") for value in (None, 3)],
        ("versions", []),
        ("sessions", {}),
        ("config", {"epochs": "ten"}),
        ("config", {"epochs": True}),
        ("config", {"epochs": None}),
        ("config", {"model": 3}),
        ("config", {"gain": "1"}),
        ("config", {"data_dir": 3}),
        ("config", {"bias": 1}),
    ],
)
def test_a_damaged_configuration_is_named(directory, error_of, key, value):
    file = directory / "config.json"
    stored = json.loads(file.read_text())
    if key == "config":
        stored[key] |= value
    elif value is None:
        del stored[key]
    else:
        stored[key] = value
    file.write_text(json.dumps(stored))
    before = files_of(directory)
    error = error_of(
        "--resume", directory, "--epochs=3" if key != "config" else "--log-every=2"
    )
    assert f"{file} cannot be read" in error
    assert "restore the file, or start a new run" in error
    assert files_of(directory) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"not JSON", b"3", b"null"])
def test_a_configuration_that_is_not_json_is_named(directory, error_of, content):
    (directory / "config.json").write_bytes(content)
    assert "config.json cannot be read" in error_of("--resume", directory)


def test_two_processes_cannot_train_in_one_directory(directory, error_of, tmp_path):
    pytest.importorskip("fcntl")
    new = tmp_path / "new"
    before = files_of(directory)
    with lock(directory), lock(new):
        error = error_of("--resume", directory, "--epochs=3")
        assert f"another process is training in {directory}" in error
        error = error_of(*TINY_ARGS, "--output-dir", new)
        assert f"another process is training in {new}" in error
    assert files_of(directory) == before
    # Given back, and the file that stays behind is no obstacle.
    assert main(["train", "--resume", str(directory), "--epochs=3"]) == 0
    assert main(["train", *TINY_ARGS, "--output-dir", str(new)]) == 0


def test_a_process_that_was_first_is_not_overwritten(error_of, tmp_path, monkeypatch):
    """The other run begins and ends while this one reads its data."""
    open_dataset, run = train_module.open_dataset, tmp_path / "run"

    def load(*args):
        run.mkdir()
        (run / "config.json").write_text("mine")
        return open_dataset(*args)

    monkeypatch.setattr(train_module, "open_dataset", load)
    assert "nothing is overwritten" in error_of(*TINY_ARGS, "--output-dir", run)
    assert (run / "config.json").read_text() == "mine"


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Shells start background jobs with Ctrl-C ignored, and Python leaves it so."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupted(*args):
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("not interrupted")


@pytest.mark.parametrize("moment", ["prepare", "open_dataset", "_session"])
def test_ctrl_c_before_the_loop_says_how_to_resume(
    directory, capsys, monkeypatch, moment
):
    with monkeypatch.context() as patch:
        patch.setattr(train_module, moment, interrupted)
        assert main(["train", "--resume", str(directory), "--epochs=3"]) == 130
    out, err = capsys.readouterr()
    assert err == ""
    assert f"hpfree train --resume {directory}" in out.splitlines()[-1]
    assert main(["train", "--resume", str(directory), "--epochs=3"]) == 0


def test_ctrl_c_in_a_new_run_says_how_to_resume(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    args = ["train", *TINY_ARGS, "--output-dir", str(run)]
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "open_dataset", interrupted)
        assert main(args) == 130
    assert "nothing more was saved" in capsys.readouterr().err
    assert not run.exists()
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_session", interrupted)
        assert main(args) == 130
    assert f"hpfree train --resume {run}" in capsys.readouterr().out
    assert main(["train", "--resume", str(run)]) == 0


def test_ctrl_c_while_drawing_lets_the_picture_be_finished(
    tmp_path, capsys, monkeypatch
):
    plot_curves, run = session_module.plot_curves, tmp_path / "run"

    def plot(*args, **options):
        signal.raise_signal(signal.SIGINT)
        plot_curves(*args, **options)

    monkeypatch.setattr(session_module, "plot_curves", plot)
    assert main(["train", *TINY_ARGS, "--output-dir", str(run)]) == 130
    assert f"hpfree train --resume {run}" in capsys.readouterr().out
    assert (run / "curves.png").exists()
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def final_params(directory, config, digits, step):
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state, *_ = checkpoints.restore(step, prepare(config(), digits)[1])
    return jax.tree.leaves(state.params)


@pytest.mark.slow
def test_a_run_killed_twice_continues_bit_for_bit(config, digits, tmp_path):
    """Two SIGKILLs, each in the middle of an epoch after new checkpoints."""
    part, whole, epochs = tmp_path / "part", tmp_path / "whole", 3000
    begin = [*TINY_ARGS[:-2], "--log-every=2", f"--output-dir={part}"]
    again = [f"--resume={part}"]
    metrics = part / "metrics.jsonl"
    for args in (begin, again):
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "hpfree_jax.cli", "train"),
                *(*args, f"--epochs={epochs}"),
            ],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        deadline = time.monotonic() + 120
        while not metrics.exists() or metrics.read_text().count("\n") < lines + 8:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        process.wait()
    step = max(int(path.name) for path in (part / "checkpoints").glob("[0-9]*"))
    epochs = step // 5 + 3
    assert main(["train", *again, f"--epochs={epochs}"]) == 0
    args = [*TINY_ARGS, f"--epochs={epochs}", f"--output-dir={whole}"]
    assert main(["train", *args]) == 0
    assert read_metrics(part) == read_metrics(whole)
    firsts = json.loads((part / "config.json").read_text())["sessions"]
    assert 0 == firsts[0]["first_step"] < firsts[1]["first_step"]
    assert firsts[1]["first_step"] < firsts[2]["first_step"] == step
    a, b = (final_params(run, config, digits, 5 * epochs) for run in (part, whole))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)
