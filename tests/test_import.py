"""`import hpfree_jax` alone loads nothing; the first public name loads all of them."""

import inspect
import pickle
import subprocess
import sys

import hpfree_jax as hp

HEAVY = "{'jax', 'optax', 'flax', 'tyro', 'numpy', 'rich'} & set(sys.modules)"


def run_python(code):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_package_alone_and_the_commands_help_import_no_jax():
    code = f"""
import sys, hpfree_jax, hpfree_jax.cli
assert hpfree_jax.__version__ and not hasattr(hpfree_jax, "__wrapped__")
for option in ("--help", "--version"):
    assert hpfree_jax.cli.main([option]) == 0
print("loaded:", *{HEAVY})
"""
    assert run_python(code)[-1] == "loaded:"


def test_the_core_leaves_out_what_only_training_and_a_few_functions_need():
    code = """
import sys, hpfree_jax
assert hpfree_jax.agd
unwanted = "tinygp equinox flax matplotlib tyro grain tensorflow_datasets"
print("loaded:", *set(unwanted.split()) & set(sys.modules))
"""
    assert run_python(code) == ["loaded:"]


def test_every_way_to_import_a_name_works_first_in_a_fresh_interpreter():
    ways = [
        "from hpfree_jax import *; print(agd.__name__)",
        "from hpfree_jax import agd; print(agd.__name__)",
        "import hpfree_jax as hp; print(hp.agd.__name__)",
        "import hpfree_jax.descent; print(hpfree_jax.descent.agd.__name__)",
        "import hpfree_jax as hp; assert 'agd' in dir(hp); print(hp.agd.__name__)",
        "import hpfree_jax as hp; print(hp.descent.agd.__name__)",
    ]
    processes = [
        subprocess.Popen([sys.executable, "-c", way], stdout=subprocess.PIPE, text=True)
        for way in ways
    ]
    assert [process.communicate()[0] for process in processes] == ["agd\n"] * len(ways)


def test_the_package_can_be_inspected_like_any_other():
    assert dict(inspect.getmembers(hp))["agd"] is hp.agd
    assert pickle.loads(pickle.dumps(hp.Layout)) is hp.Layout
    assert set(hp.__all__) <= set(dir(hp))
    assert not hasattr(hp, "agdd")
