import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_train_digits_learns(tfds_directory):
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "train_digits.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    *_, last = result.stdout.splitlines()
    accuracy = re.fullmatch(r"epoch 10 .* test accuracy ([\d.]+)%", last)
    assert float(accuracy[1]) > 95


@pytest.mark.slow
def test_train_gpt_learns_and_writes(tmp_path):
    data = ROOT.parent / "shared" / "tfds"
    if not (data / "tiny_shakespeare").is_dir():
        pytest.skip(f"tiny_shakespeare is not in {data}")
    result = subprocess.run(
        [
            *(sys.executable, ROOT / "examples" / "train_gpt.py"),
            *("--data-dir", data, "--output-dir", tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, "")
    perplexity = re.search(r"^test perplexity: ([\d.]+)$", result.stdout, re.MULTILINE)
    # The frequencies of the 65 characters alone give 27.4.
    assert float(perplexity[1]) < 25
    sample = (tmp_path / "run" / "sample.txt").read_text()
    assert len(sample) == 200
    assert sample.strip() in result.stdout


@pytest.mark.slow
def test_auto_trains_a_model_of_ones_own(capsys, tfds_directory):
    from examples.auto import main

    accuracies = main()
    assert accuracies["hp.auto"] > 0.95
    assert accuracies["hp.auto"] > accuracies["Adam at 0.001"]
    assert f"hp.auto{accuracies['hp.auto']:>15.1%}" in capsys.readouterr().out
