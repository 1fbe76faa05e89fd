"""Prints the lowest declared version of each core dependency: ``jax==0.9`` ...

    pip install $(python .ci/lowest.py)

pip itself resolves to the highest versions only.
"""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
for requirement in project["project"]["dependencies"]:
    name, separator, version = requirement.partition(">=")
    if not separator or "," in version or ";" in version:
        raise SystemExit(f"{requirement!r}: expected NAME>=VERSION")
    print(f"{name}=={version}")
