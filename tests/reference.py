"""Float64 traces of the original implementations."""

import json
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[2] / "shared" / "reference"
STORED = Path(__file__).parent / "data"


def load_case(method: str, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns (settings, arrays) of a recorded case, or skips where there is none."""
    folder = SHARED / method
    if not folder.is_dir():
        pytest.skip(f"no reference traces at {folder}")
    case = json.loads((folder / "index.json").read_text())["cases"][name]
    with np.load(folder / case["file"]) as arrays:
        return case.get("settings", {}), dict(arrays)
