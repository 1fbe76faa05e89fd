"""Small runs on the digits, whose TFDS directory all test processes share."""

import contextlib
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.data import load_dataset
from hpfree_jax.training import TrainConfig
from hpfree_jax.training._evaluation import make_evaluate, make_sums
from hpfree_jax.training._files import MetricsFile

TFDS = Path(__file__).parents[2] / ".cache" / "tfds"
# 1,438 examples in batches of 256 are 5 steps an epoch.
TINY = {"depth": 2, "width": 8, "batch_size": 256, "epochs": 2, "log_every": 2}


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
    """Makes the configuration of a tiny run in its own directory.

    By AGD, which has no horizon: a finished run can be made longer.
    """

    def make(name="run", **changes):
        settings = {**TINY, "method": "agd", "output_dir": tmp_path / name, **changes}
        return TrainConfig(**settings)

    return make


@pytest.fixture
def interrupt_at(monkeypatch):
    """Within it, sends SIGINT when the line of metrics of a step is written."""

    @contextlib.contextmanager
    def at(step, times=1):
        append = MetricsFile.append

        def append_and_interrupt(self, **values):
            append(self, **values)
            if values["step"] == step and "loss" in values:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(MetricsFile, "append", append_and_interrupt)
            yield

    return at


def evaluate_on(task, examples, batch_size=1000):
    """Returns a function from a state to its loss and accuracy on the examples."""
    batches = examples.batches(batch_size)
    return make_evaluate(task, make_sums(task), lambda: batches)


def same(a, b):
    """Whether two runs ended in the same state, bit for bit, random keys included."""

    def numbers(result):
        for leaf in jax.tree.leaves(result.state):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            yield jax.random.key_data(leaf) if is_key else leaf

    pairs = zip(numbers(a), numbers(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def read_metrics(directory):
    """The lines of a run, strictly parsed and without the speed, which varies."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = (directory / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if not key.endswith(("_per_second", "stall_seconds"))
        }
        for line in lines
    ]
