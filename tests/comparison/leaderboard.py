"""``benchmarks/no_tuning.py`` as a module: the script is no part of the package."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "benchmarks" / "no_tuning.py"
_spec = importlib.util.spec_from_file_location("no_tuning", PATH)
assert _spec is not None
assert _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
