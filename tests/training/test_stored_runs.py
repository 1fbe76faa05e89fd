"""Runs made at 2a5f5bb, with another engine, continue as they would have.

``part`` is a run that Ctrl-C stopped, ``full`` what the same command wrote without it.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from hpfree_jax.training import resume

from .conftest import read_metrics

FIXTURES = Path(__file__).parent / "fixtures"
MADE_WITH = json.loads((FIXTURES / "made_with.json").read_text())
TIMES = ("seconds", "images_per_second")


def is_same_machine():
    """Whether the last digits must agree: the same compiler for the same processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = {tuple(part.strip() for part in line.split(":", 1)) for line in lines}
    is_same_cpu = MADE_WITH["cpu"].items() <= found
    return is_same_cpu and version("jaxlib") == MADE_WITH["jaxlib"]


@pytest.mark.parametrize("name", ["auto", "marthe"])
def test_a_stored_run_continues_as_if_it_had_not_stopped(name, tmp_path):
    stored = FIXTURES / f"run_2a5f5bb_{name}"
    run = shutil.copytree(stored / "part", tmp_path / "run")
    result = resume(run)
    found, expected = read_metrics(run), read_metrics(stored / "full")
    summary = json.loads((stored / "full" / "summary.json").read_text())
    found.append(json.loads((run / "summary.json").read_text()))
    expected.append(summary)
    assert (result.step, result.interrupted) == (summary["step"], False)
    assert len(found) == len(expected)
    for line, other in zip(found, expected, strict=True):
        line = {k: v for k, v in line.items() if k not in TIMES}
        other = {k: v for k, v in other.items() if k not in TIMES}
        # Elsewhere another processor or compiler may round differently.
        assert line == (other if is_same_machine() else pytest.approx(other, rel=1e-5))
