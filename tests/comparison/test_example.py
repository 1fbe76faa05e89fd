import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_example_compares_three_methods(tfds_directory, tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "compare.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert (result.returncode, result.stderr) == (0, "")
    found = re.findall(r"  (.+): test accuracy ([\d.]+)%, (\w+) steps", result.stdout)
    accuracies = {method: float(accuracy) for method, accuracy, _ in found}
    assert accuracies.keys() == {"agd", "prodigy", "adam, best of 5"}
    assert min(accuracies.values()) > 90
    (report,) = tmp_path.glob("runs/*/report.html")
    assert str(report.relative_to(tmp_path)) in result.stdout
