"""A tiny comparison on the digits, whose TFDS directory all test processes share."""

from pathlib import Path

import pytest

from hpfree_jax.comparison import CompareConfig
from hpfree_jax.data import load_dataset

TFDS = Path(__file__).parents[2] / ".cache" / "tfds"
# 1,438 examples in batches of 256 are 5 steps an epoch, so that 7 steps are two epochs.
TINY = {
    "models": ("fcn:depth=2,width=8",),
    "batch_size": 256,
    "steps": 7,
    "log_every": 2,
    "evaluate_every": 4,
}


@pytest.fixture(scope="session", autouse=True)
def tfds_directory():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(TFDS))
        yield TFDS


@pytest.fixture(scope="session")
def digits(tfds_directory):
    return load_dataset("digits")


@pytest.fixture
def config(tmp_path):
    """Makes the configuration of a tiny comparison in its own directory."""

    def make(**changes):
        defaults = {"methods": ("adam",), "seeds": 1, "output_dir": tmp_path / "out"}
        return CompareConfig(**{**TINY, **defaults, **changes})

    return make
