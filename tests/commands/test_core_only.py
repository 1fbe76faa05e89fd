"""Without the extras, each command and subpackage says in one line what to install."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

EXTRAS = {
    "array_record", "cv2", "flax", "grain", "jinja2", "matplotlib", "orbax", "pyarrow",
    "rich", "sklearn", "tensorflow_datasets", "tyro",
}

# Neither imported nor found, as importlib.util.find_spec answers.
sys.modules.update(dict.fromkeys(EXTRAS))
"""
COMMANDS = ("train", "compare", "bench", "architecture", "models", "datasets")
SUBPACKAGES = ("training", "comparison", "models", "data")


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True
    )


def test_each_command_names_the_extra_in_one_line():
    code = f"""
from hpfree_jax.cli import main
codes = [main([name]) for name in {COMMANDS}]
assert codes == [2] * len(codes), codes
assert main(["--help"]) == main(["--version"]) == 0
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    for name, line in zip(COMMANDS, lines, strict=True):
        assert line.startswith(f'hpfree: error: "hpfree {name}" needs packages that ')
        assert line.endswith('install them with: pip install "hpfree-jax[train]"')


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_each_subpackage_names_the_extra(name):
    done = run_python(f"import hpfree_jax.{name}")
    last = done.stderr.splitlines()[-1]
    assert f"MissingPackageError: hpfree_jax.{name} needs packages that are" in last
    assert 'pip install "hpfree-jax[train]"' in last


def test_the_core_works_and_a_plot_names_the_extra():
    code = """
import jax, jax.numpy as jnp, hpfree_jax as hp
arch = hp.trace_architecture(lambda w, x: x @ w, jnp.ones((3, 2)), jnp.ones((1, 3)))
print(arch.summary())
try:
    arch.plot()
except ImportError as error:
    print(error)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "arch.plot() needs packages that are not installed (matplotlib); install them "
        'with: pip install "hpfree-jax[train]"'
    )
