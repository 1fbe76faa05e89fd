"""A comparison made at 2a5f5bb, with another engine, is continued."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from hpfree_jax.comparison import CompareConfig, compare

STORED = Path(__file__).parent / "fixtures" / "compare_2a5f5bb"
SETTINGS = {
    "methods": ("agd", "adam:learning_rate=0.003", "marthe"),
    "grid": ("sgd",),
    "grid_rates": (0.01, 0.1),
    "grid_choice": "validation",
    "validation_fraction": 0.1,
    "steps": 20,
    "seeds": 2,
    "models": ("fcn:depth=2,width=8",),
}


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_finished_comparison_is_found_whole(tmp_path):
    copy = shutil.copytree(STORED, tmp_path / "compare")
    (copy / "results.csv").unlink()
    result = compare(CompareConfig(**SETTINGS, output_dir=copy))
    assert (result.runs_made, result.runs_found) == (0, 10)
    found, expected = (rows(folder / "results.csv") for folder in (copy, STORED))
    assert found == expected


def test_what_is_missing_is_made_as_it_was(tmp_path):
    copy = shutil.copytree(STORED, tmp_path / "compare")
    lost = [*copy.glob("runs/*/agd-*/*.json"), *copy.glob("runs/*/marthe-*/*.json")]
    before = {path: json.loads(path.read_text()) for path in lost}
    for path in lost:
        path.unlink()
    result = compare(CompareConfig(**SETTINGS, output_dir=copy))
    assert (result.runs_made, result.runs_found) == (4, 6)
    for path, old in before.items():
        new = json.loads(path.read_text())
        for part in ("train", "test", "validation"):
            for name, column in old[part].items():
                # Another processor or compiler may round differently.
                assert new[part][name] == pytest.approx(column, rel=1e-4), (path, name)
        for name in ("run", "diverged_at", "seeds_at_once", "num_params"):
            assert new[name] == old[name]
