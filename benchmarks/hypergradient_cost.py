"""What a hypergradient step costs: FLOPs of the jitted step, wall time, memory.

    python benchmarks/hypergradient_cost.py [--repeats 15] [--width 256]

FLOPs are XLA's own count for the whole step (gradient, update, new parameters), as a
ratio to the same step with the plain optimizer: a second gradient in the compiled step
would show. Times are measured round by round in one process, and the ratio is the
median of the rounds'. The network is dense, 4 layers (8 with --layers 8).
"""

import argparse
import functools
import itertools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleaved, median_ratio

import hpfree_jax as hp

TARGETS = {  # of the FLOPs
    "HD": 1.05,
    "RTHO, training loss": 2.8,
    "MARTHE, training loss": 2.8,
    "MARTHE, validation loss": 3.8,
    "RTHO, three scalars": 2.8 + 2 * 1.8,
}


def make_methods(inner):
    """The optimizers that are compared, and whether each takes a validation loss."""
    rate = 1e-3
    three = {"learning_rate": rate, "b1": 0.9, "b2": 0.999}
    plain = functools.partial(inner, rate)
    methods = {
        "plain": (plain(), False),
        "HD": (hp.hd(inner, rate, 1e-8), False),
        "RTHO, training loss": (hp.rtho(inner, rate, 1e-8), False),
        "MARTHE, training loss": (hp.marthe(inner, rate, 1e-8), False),
        "MARTHE, validation loss": (hp.marthe(inner, rate, 1e-8), True),
    }
    if inner is optax.adam:
        tx = hp.hypergradient(inner, three, 1e-8)
        methods["RTHO, three scalars"] = (tx, False)
    return methods


def loss(params, batch):
    """Cross-entropy of a dense network with tanh units."""
    x, labels = batch
    for kernel in params[:-1]:
        x = jnp.tanh(x @ kernel)
    return optax.softmax_cross_entropy_with_integer_labels(
        x @ params[-1], labels
    ).mean()


def make_step(tx, validates):
    """Returns the jitted step of a plain optax user."""
    tx = optax.with_extra_args_support(tx)

    def step(params, state, batch, held_out):
        grads = jax.grad(loss)(params, batch)
        validation = {"validation_fn": lambda p: loss(p, held_out)} if validates else {}
        updates, state = tx.update(
            grads, state, params, value_fn=lambda p: loss(p, batch), **validation
        )
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def main():
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description="cost of hypergradients")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    sizes = [args.width] * args.layers + [10]
    params = [
        jnp.asarray(generator.normal(size=(i, o)) / i**0.5, jnp.float32)
        for i, o in itertools.pairwise(sizes)
    ]
    draw = lambda: (
        jnp.asarray(generator.normal(size=(args.batch, args.width)), jnp.float32),
        jnp.asarray(generator.integers(0, 10, size=args.batch)),
    )
    batch, held_out = draw(), draw()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {sizes}, {args}")
    for inner in (optax.sgd, optax.adam):
        carries, steps, costs = {}, {}, {}
        for name, (tx, validates) in make_methods(inner).items():
            carry = (jax.tree.map(jnp.array, params), tx.init(params))
            step = make_step(tx, validates).lower(*carry, batch, held_out).compile()
            analysis: Any = step.cost_analysis()
            memory: Any = step.memory_analysis()
            costs[name] = (analysis["flops"], memory.temp_size_in_bytes)
            carries[name], steps[name] = carry, step

        def run(name, steps=steps, carries=carries):
            carries[name] = steps[name](*carries[name], batch, held_out)
            jax.block_until_ready(carries[name])

        runs = {name: functools.partial(run, name) for name in steps}
        seconds = interleaved(runs, args.repeats, warmup=2)
        print(
            f"\n{inner.__name__:<26}{'FLOPs':>8}{'target':>7}{'time':>8}{'ms':>8}"
            f"{'state MB':>10}{'temp MB':>9}"
        )
        for name, (flops, temporary) in costs.items():
            ratio = flops / costs["plain"][0]
            slower = median_ratio(seconds[name], seconds["plain"])
            state = sum(x.nbytes for x in jax.tree.leaves(carries[name][1])) / 1e6
            target = f"{TARGETS[name]:.2f}" if name in TARGETS else ""
            print(
                f"{name:<26}{ratio:>8.3f}{target:>7}{slower:>8.2f}"
                f"{1e3 * statistics.median(seconds[name]):>8.2f}{state:>10.2f}"
                f"{temporary / 1e6:>9.2f}"
            )


if __name__ == "__main__":
    main()
