"""What a training step of hp.auto costs, beside optax.adamw and other optimizers.

    python benchmarks/auto_cost.py [--rounds 15] [--tasks fcn8 ...]

One jitted step with donated parameters and state, on random data. In every round, in
one process, each optimizer runs for about a quarter of a second; a ratio is the median
over the rounds, its spread the middle half of them. All is compiled before the first
round. FLOPs are XLA's count for the compiled step.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleaved
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import FCN, GPT, DagCNN
from hpfree_jax.training import cross_entropy_loss

CLASSES, VOCABULARY = 10, 65
SECONDS = 0.25  # of a turn
REFERENCE = "adamw"


class CNN(nnx.Module):
    """Three convolutions of stride 2, a mean over the positions, and a readout."""

    def __init__(self, *, rngs):
        channels = (3, 32, 64, 128)
        self.layers = nnx.List(
            nnx.Conv(d_in, d_out, (3, 3), strides=2, rngs=rngs)
            for d_in, d_out in itertools.pairwise(channels)
        )
        self.readout = nnx.Linear(channels[-1], CLASSES, rngs=rngs)

    def __call__(self, x):
        """Maps images to scores."""
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.readout(x.mean((1, 2)))


class Task(NamedTuple):
    """A model and the shape of its batch."""

    name: str
    make: Callable[..., nnx.Module]
    shape: tuple[int, ...]
    target: float  # of hp.auto's time relative to adamw's
    is_text: bool = False

    def batch(self):
        """Inputs and labels, random."""
        rng = np.random.default_rng(0)
        if self.is_text:
            tokens = rng.integers(VOCABULARY, size=(2, *self.shape))
            return jnp.asarray(tokens[0], jnp.int32), jnp.asarray(tokens[1], jnp.int32)
        x = jnp.asarray(rng.normal(size=self.shape), jnp.float32)
        return x, jnp.asarray(rng.integers(CLASSES, size=self.shape[0]), jnp.int32)


def _gpt(depth, width, heads, context):
    return functools.partial(GPT, VOCABULARY, depth, width, heads, context)


TASKS = (
    Task("fcn8", functools.partial(FCN, 784, 8, 256, CLASSES), (128, 784), 1.5),
    Task("fcn4", functools.partial(FCN, 3072, 4, 256, CLASSES), (128, 3072), 1.5),
    Task(
        "dag_cnn",
        functools.partial(DagCNN, 3, "2_02", 16, CLASSES),
        (32, 32, 32, 3),
        1.1,
    ),
    Task("cnn3", functools.partial(CNN), (128, 32, 32, 3), 1.1),
    Task("gpt2x64", _gpt(2, 64, 4, 64), (16, 64), 1.1, is_text=True),
    Task("gpt6x384", _gpt(6, 384, 6, 256), (4, 256), 1.1, is_text=True),
)
OPTIMIZERS = {
    REFERENCE: lambda params, arch: optax.adamw(1e-3),
    "auto": lambda params, arch: hp.auto(params, arch, 1_000_000),
    "agd spectral": lambda params, arch: hp.agd(
        layout=arch.layout(params), norm="spectral", momentum=0.9
    ),
    "muon": lambda params, arch: optax.contrib.muon(1e-2),
}


def prepare(task, make_optimizer):
    """Returns a function that runs so many steps, and the FLOPs of one."""
    model = task.make(rngs=nnx.Rngs(0))
    x, y = task.batch()
    graph, params = nnx.split(model, nnx.Param)
    architecture = hp.trace_architecture(model, jax.ShapeDtypeStruct(x.shape, x.dtype))
    tx = make_optimizer(params, architecture)

    def loss(params, x, y):
        return jnp.mean(cross_entropy_loss(nnx.merge(graph, params)(x), y))

    def step(params, state, x, y):
        grads = jax.grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    carry = [params, tx.init(params)]
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, x, y).compile()

    def run(steps):
        for _ in range(steps):
            carry[:] = compiled(*carry, x, y)
        jax.block_until_ready(carry)

    return run, (compiled.cost_analysis() or {})["flops"]


def measure(runs, rounds):
    """Seconds per step in each round, by optimizer; a first round is left out."""
    two_steps = {name: functools.partial(run, 2) for name, run in runs.items()}
    found = interleaved(two_steps, 1)
    steps = {name: max(1, round(2 * SECONDS / found[name][0])) for name in runs}
    turns = {name: functools.partial(run, steps[name]) for name, run in runs.items()}
    return {
        name: [turn / steps[name] for turn in seconds]
        for name, seconds in interleaved(turns, rounds, warmup=0).items()
    }


def main():
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description="The cost of hp.auto's step")
    parser.add_argument("--rounds", type=int, default=15)
    names = [task.name for task in TASKS]
    parser.add_argument("--tasks", nargs="+", default=names, choices=names)
    args = parser.parse_args()
    tasks = [task for task in TASKS if task.name in args.tasks]
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}; compiling", flush=True)
    prepared = {
        task.name: {name: prepare(task, make) for name, make in OPTIMIZERS.items()}
        for task in tasks
    }
    print("measuring", flush=True)
    print("| task | optimizer | ms | time | middle half | FLOPs | target |")
    print("|---|---|---:|---:|---:|---:|---|")
    for task in tasks:
        of_task = prepared[task.name]
        runs = {name: run for name, (run, _) in of_task.items()}
        times = measure(runs, args.rounds)
        for name, seconds in times.items():
            pairs = zip(seconds, times[REFERENCE], strict=True)
            ratios = [own / reference for own, reference in pairs]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            flops = of_task[name][1] / of_task[REFERENCE][1]
            verdict = ""
            if name == "auto":
                outcome = "met" if ratio <= task.target else "missed"
                verdict = f"{task.target}, {outcome}"
            print(
                f"| {task.name} | {name} | {1e3 * statistics.median(seconds):.2f} "
                f"| {ratio:.2f} | {low:.2f} to {high:.2f} | {flops:.2f} | {verdict} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
