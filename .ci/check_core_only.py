"""Checks that without the extras each part says in one line what to install.

    python .ci/check_core_only.py

Runs in an environment that has the core alone, as ``pip install .`` leaves it: there
the errors come from packages that are really missing, which a test cannot arrange.
"""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import hpfree_jax as hp
from hpfree_jax.cli import COMMANDS

HPFREE = Path(sys.executable).with_name("hpfree")
INSTALL = 'install them with: pip install "hpfree-jax[train]"'
SUBPACKAGES = ("training", "models", "data", "comparison")


def check(is_met: bool, what: str) -> None:
    if not is_met:
        raise SystemExit(f"check_core_only: {what}")


def check_core() -> hp.Architecture:
    """One step of AGD, and a traced graph; returns the graph."""
    params = {"w": jnp.ones((3, 2))}
    tx = hp.agd()
    updates, state = tx.update(params, tx.init(params), params)
    stepped = optax.apply_updates(params, updates)
    check(bool(jnp.all(stepped["w"] < 1)), "a step of AGD did not descend")
    check(float(hp.get_learning_rate(state)) > 0, "AGD's learning rate is not positive")
    return hp.trace_architecture(lambda p, x: x @ p["w"], params, jnp.ones((1, 3)))


def check_commands() -> None:
    for argument in ("--help", "--version"):
        done = run_hpfree(argument)
        check(done.returncode == 0, f"hpfree {argument}: {done.returncode}")
        check(not done.stderr and bool(done.stdout), f"hpfree {argument}: {done}")
    for name in COMMANDS:
        done = run_hpfree(name)
        lines = done.stderr.splitlines()
        one_line = len(lines) == 1 and lines[0].startswith("hpfree: error: ")
        check(done.returncode == 2, f"hpfree {name}: exit code {done.returncode}")
        check(one_line and lines[0].endswith(INSTALL), f"hpfree {name}: {done.stderr}")


def run_hpfree(argument: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HPFREE, argument], capture_output=True, text=True)


def check_imports(arch: hp.Architecture) -> None:
    for name in SUBPACKAGES:
        module = f"hpfree_jax.{name}"
        check_missing(module, lambda module=module: importlib.import_module(module))
    check_missing("arch.plot()", arch.plot)


def check_missing(what: str, use: Callable[[], object]) -> None:
    try:
        use()
    except ImportError as error:
        message = str(error)
        is_one_line = message.startswith(what) and "\n" not in message
        check(is_one_line and message.endswith(INSTALL), f"{what}: {message}")
    else:
        check(False, f"{what} worked without the extra")


def main() -> None:
    check(importlib.util.find_spec("flax") is None, "flax is installed here")
    arch = check_core()
    check_commands()
    check_imports(arch)
    print(f"the core alone works (JAX {jax.__version__}), the rest names its extra")


if __name__ == "__main__":
    main()
