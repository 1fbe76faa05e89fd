"""Float64 traces of the original implementations.

All of them lie beside the project; the first steps of three of AGD, six whole ones of
hypergradients and three runs of AutoWU are stored in tests/reference_data, so that
parity is tested wherever the project is (``python -m tests.reference`` copies them).
"""

import json
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[2] / "shared" / "reference"
STORED = Path(__file__).parent / "reference_data"
STORED_CASES = [
    ("agd", "c_fcn_xent"),
    ("agd", "e2_dead_kernel_positions"),
    ("agd_prime", "b1_mlp_layernorm"),
]

STORED_HYPERGRADIENTS = [
    "problem",
    "truth_sgd_m0_wd0",
    "truth_sgd_m9_wd0.05",
    "truth_adam_eps0.01_wd0",
    "musgd_m0_first_order",
    "sgdhd_m9_wd0",
]

STORED_AUTOWU = ["run_default_u", "run_nan_inf_u", "run_noisy_u"]


def load_case(method: str, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns (settings, arrays) of a recorded case, or skips where there is none."""
    folder = SHARED / method
    if not folder.is_dir():
        pytest.skip(f"no reference traces at {folder}")
    case = json.loads((folder / "index.json").read_text())["cases"][name]
    with np.load(folder / case["file"]) as arrays:
        return case["settings"], dict(arrays)


def load_stored(method: str, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns (settings, arrays) of the stored first steps of a case."""
    settings = json.loads((STORED / f"{method}_{name}.json").read_text())
    with np.load(STORED / f"{method}_{name}.npz") as arrays:
        return settings, dict(arrays)


def store(method: str, name: str, num_steps: int = 3) -> None:
    settings, arrays = load_case(method, name)
    kept = {
        key: array[: num_steps + key.startswith("param")]
        for key, array in arrays.items()
        if key in ("eta", "G") or key.startswith(("param.", "grad."))
    }
    np.savez_compressed(STORED / f"{method}_{name}.npz", **kept)
    names = {"param_order": settings["param_order"]}
    (STORED / f"{method}_{name}.json").write_text(json.dumps(names, indent=1) + "\n")


def store_whole(method: str, name: str) -> None:
    settings, arrays = load_case(method, name)
    settings.pop("summary", None)
    np.savez_compressed(STORED / f"{method}_{name}.npz", **arrays)
    text = json.dumps(settings, indent=1) + "\n"
    (STORED / f"{method}_{name}.json").write_text(text)


if __name__ == "__main__":
    for case in STORED_CASES:
        store(*case)
    for name in STORED_HYPERGRADIENTS:
        store_whole("adatune", name)
    for name in STORED_AUTOWU:
        store_whole("autowu", name)
