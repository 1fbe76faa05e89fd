"""How much longer `import hpfree_jax` takes than the libraries that it needs anyway.

    python benchmarks/import_time.py [runs]

Fresh processes in turns; prints the median seconds of each, and their ratio.
"""

import functools
import statistics
import subprocess
import sys

from _timing import interleaved

BASE = "import jax, optax"
OURS = f"{BASE}; import hpfree_jax; hpfree_jax.agd"  # the first name loads the rest


def main() -> None:
    """Times the imports in turns."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    imports = {
        code: functools.partial(
            subprocess.run, [sys.executable, "-c", code], check=True
        )
        for code in (BASE, OURS)
    }
    seconds = interleaved(imports, runs)
    medians = {code: statistics.median(times) for code, times in seconds.items()}
    for code, median in medians.items():
        print(f"{median:7.3f} s  {code}")
    print(f"{medians[OURS] / medians[BASE]:7.3f} x")


if __name__ == "__main__":
    main()
