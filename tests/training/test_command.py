"""The command line, in this process: what it prints and returns."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpfree_jax.cli import main
from tests.training.conftest import TINY, read_metrics

ROOT = Path(__file__).parents[2]
TINY_ARGS = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]


@pytest.fixture
def run(capsys):
    def run(*args):
        code = main(["train", *TINY_ARGS, *map(str, args)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_run_prints_its_results(run, tmp_path):
    code, out, err = run("--output-dir", tmp_path / "run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"epoch 1/2  test loss \d.\d+  test accuracy [\d.]+%", lines[0])
    assert re.fullmatch(r"test accuracy: [\d.]+%", lines[2])
    assert re.fullmatch(r"images per second: [\d,]+", lines[3])
    assert lines[4] == f"curves: {tmp_path / 'run' / 'curves.png'}"


def test_a_run_with_validation_prints_it(run, tmp_path):
    args = ("--validation-fraction=0.1", "--epochs=1", "--output-dir", tmp_path / "run")
    code, out, err = run(*args)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "held out: 144 of 1438 training examples"
    assert re.fullmatch(
        r"epoch 1/1  test loss \d.\d+  test accuracy [\d.]+%  "
        r"validation accuracy [\d.]+%",
        lines[1],
    )


def test_the_scaled_rate_is_printed_once(run, tmp_path):
    args = ("--method=hd", "--scale-learning-rate", "--epochs=1")
    code, out, _ = run(*args, "--output-dir", tmp_path / "run")
    assert code == 0
    assert out.count("learning rate: 0.01, scaled to") == 1


def test_the_default_directory_names_the_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("--epochs", 1)[0] == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(re.match(r"digits-fcn-auto-\d{8}-\d{6}", name) for name in names)


def error_of(run, *args):
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert err.startswith("hpfree: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--model fnc", "unknown model 'fnc' (did you mean 'fcn'?)"),
        ("--dataset minst", "unknown dataset 'minst' (did you mean 'mnist'?)"),
        ("--method agdd", "unknown method 'agdd' (did you mean 'agd'?)"),
        ("--loss squared", "unknown loss 'squared' (did you mean 'square'?)"),
        (
            "--init zeros",
            "unknown init 'zeros'; choose one of principled, agd, default",
        ),
        ("--method sgd --schedule cos", "unknown schedule 'cos'"),
        ("--batch-size 0", "`batch_size` must be at least 1, got 0"),
        ("--batch-size 1439", "`batch_size` 1439 is larger than the 1438"),
        (
            "--scale-learning-rate",
            "`scale_learning_rate` does not apply to method auto",
        ),
        ("--model dag_mlp --dag 2_2", "`depth` 2 does not apply to model dag_mlp"),
        (
            "--model dag_cnn --channels 0 --depth None --width None",
            "`channels` must be at least 1, got 0",
        ),
        ("--dag 2", "`dag` 2 does not apply to model fcn"),
        ("--epochs 0", "`epochs` must be at least 1, got 0"),
        ("--epochs -3", "`epochs` must be at least 1, got -3"),
        ("--log-every 0", "`log_every` must be at least 1"),
        ("--steps-per-call 0", "`steps_per_call` must be at least 1"),
        ("--depth 0", "`depth` must be at least 1"),
        ("--seed -1", "`seed` must lie in"),
        ("--learning-rate 0.1", "`learning_rate` 0.1 does not apply to method auto"),
        ("--method agd --gain 0", "`gain` must lie in (0, inf), got 0.0"),
        ("--model lenet5", "`depth` 2 does not apply to model lenet5"),
        ("--data-dir /no/such", "`data_dir` '/no/such' is no directory"),
        ("--method sgd --discount 0.5", "`discount` 0.5 does not apply to method sgd"),
        ("--method hd --inner sdg", "unknown inner 'sdg' (did you mean 'sgd'?)"),
        (
            "--method marthe --discount 2 --validation-fraction 0",
            "`discount` must lie in [0, 1]",
        ),
        ("--method hd --rule additive", "needs a `hyper_learning_rate`"),
        ("--validation-fraction 1", "`validation_fraction` must lie in [0, 1), got"),
        ("--validation-fraction 1e-9", "holds out 0 of the 1438 training examples"),
        ("--method rtho", "fewer than a batch of 256, which method rtho needs"),
        (
            "--validation-fraction 0.9",
            "larger than the 144 training examples of digits (1294 others are held",
        ),
        ("--resume /no/such", "`resume` /no/such holds no run"),
        ("--epochs ten", "invalid literal for int() with base 10: 'ten'"),
        ("--modle fcn", "Unrecognized options: --modle"),
        ("--epochs", "--epochs"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, args, message):
    output = tmp_path / "run"
    error = error_of(run, *args.split(), "--output-dir", output)
    assert message in error
    assert not output.exists()


def test_a_directory_with_a_run_is_refused(run, tmp_path):
    assert run("--output-dir", tmp_path / "run")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert "--resume" in error_of(run, "--output-dir", tmp_path / "run")
    for option in ("--model=lenet5", "--seed=1", "--width=16", "--loss=cross_entropy"):
        name = option.strip("-").split("=")[0]
        error = error_of(run, "--resume", tmp_path / "run", option)
        assert f"`{name}` cannot become" in error
    error = error_of(run, "--resume", tmp_path / "run", "--output-dir", tmp_path / "x")
    assert "`output_dir` cannot become" in error
    assert "is finished" in error_of(run, "--resume", tmp_path / "run")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert before == after  # nothing was touched


def test_a_scheduled_run_cannot_change_its_length(run, tmp_path):
    args = ["--method=adamw", "--schedule=cosine", "--output-dir", tmp_path / "run"]
    assert run(*args)[0] == 0
    error = error_of(run, "--resume", tmp_path / "run", "--epochs=4")
    assert "`epochs` cannot become 4" in error
    assert "scheduled" in error


@pytest.mark.parametrize("text", ["{", '{"config": {"colour": 1}}', "{}", "[1]"])
def test_a_damaged_configuration_is_named(run, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in error_of(run, "--resume", tmp_path)


def test_a_checkpoint_that_does_not_fit_is_named(run, tmp_path, capsys):
    assert run("--output-dir", tmp_path / "run")[0] == 0
    file = tmp_path / "run" / "config.json"
    stored = json.loads(file.read_text())
    stored["config"] |= {"width": 9, "epochs": 3}
    file.write_text(json.dumps(stored))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "another model or method" in error
    assert error.count("\n") == 1


def test_other_versions_are_noted(run, tmp_path, capsys):
    assert run("--method=agd", "--output-dir", tmp_path / "run")[0] == 0
    file = tmp_path / "run" / "config.json"
    stored = json.loads(file.read_text())
    stored["versions"]["optax"] = "0.1"
    file.write_text(json.dumps(stored))
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs=3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    notes = [x for x in out.splitlines() if x.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith("note: optax 0.1 became ")


def test_a_diverged_run_is_one_line(run, tmp_path):
    output = tmp_path / "run"
    error = error_of(
        run, "--method=sgd", "--learning-rate=1e30", "--output-dir", output
    )
    assert "non-finite loss" in error
    assert "at step 2" in error
    assert (output / "curves.png").exists()


def test_a_diverged_hypergradient_run_says_what_to_lower(run, tmp_path):
    args = ["--method=hd", "--learning-rate=1e30", "--output-dir", tmp_path / "run"]
    assert "(--learning-rate or --hyper-learning-rate)" in error_of(run, *args)


def test_bias_flags(run, tmp_path):
    for flag, bias in (("--bias", True), ("--no-bias", False)):
        assert run(flag, "--epochs=1", "--output-dir", tmp_path / flag)[0] == 0
        stored = json.loads((tmp_path / flag / "config.json").read_text())
        assert stored["config"]["bias"] is bias


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["--version"]])
def test_help(args, capsys):
    try:
        code = main(args)
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert capsys.readouterr().out


def test_an_unknown_command_is_named(capsys):
    assert main(["trian"]) == 2
    assert "unknown command 'trian' (did you mean 'train'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_ctrl_c_saves_and_the_printed_command_continues(run, tmp_path, number):
    """A real process, a real signal, and the command that it prints."""
    command = [sys.executable, "-m", "hpfree_jax.cli", "train", *TINY_ARGS]
    directory = tmp_path / "a run"
    process = subprocess.Popen(
        [*command, "--method=agd", "--epochs=20000", "--output-dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    metrics = directory / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    step = json.loads((directory / "summary.json").read_text())["step"]
    assert f"stopped at step {step}" in out
    assert f"hpfree train --resume '{directory}'" in out.splitlines()[-1]

    epochs = step // 5 + 2
    code = main(["train", "--resume", str(directory), f"--epochs={epochs}"])
    assert code == 0
    whole = ["--method=agd", f"--epochs={epochs}", "--output-dir", tmp_path / "whole"]
    assert run(*whole)[0] == 0
    assert read_metrics(directory) == read_metrics(tmp_path / "whole")
