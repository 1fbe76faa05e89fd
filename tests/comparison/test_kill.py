"""A comparison that is killed, without a chance to tidy up, continues."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("--methods", "adam", "sgd", "adamw", "--models", "fcn:depth=2,width=8"),
    *("--batch-size", "256", "--seeds", "1", "--steps", "40"),
]
CODE = "import sys; from hpfree_jax.cli import main; sys.exit(main())"


@pytest.mark.slow
def test_a_killed_comparison_continues_by_the_same_command(tfds_directory, tmp_path):
    command = [sys.executable, "-c", CODE, "compare", *OPTIONS]
    command += ["--output-dir", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = lambda: list((tmp_path / "out").glob("runs/**/seed-*.json"))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        while not found():
            assert process.poll() is None, "it ended before a run was finished"
            time.sleep(0.01)
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in found()}
    assert 1 <= len(finished) < 3
    assert not (tmp_path / "out" / "report.html").exists()
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    number = len(finished)
    assert f"runs: {3 - number} made, {number} found" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(found()) == 3
    assert (tmp_path / "out" / "report.html").exists()
