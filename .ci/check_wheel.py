"""Checks what is in a wheel: ``py.typed`` and the package, nothing else.

python .ci/check_wheel.py WHEEL
"""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
others = {name.partition("/")[0] for name in names} - {"hpfree_jax"}
unexpected = [name for name in others if not name.endswith(".dist-info")]
if unexpected:
    raise SystemExit(f"{sys.argv[1]} also holds {', '.join(sorted(unexpected))}")
if "hpfree_jax/py.typed" not in names:
    raise SystemExit(f"{sys.argv[1]} lacks hpfree_jax/py.typed")
