import os
import re
import subprocess
import sys
from pathlib import Path

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
