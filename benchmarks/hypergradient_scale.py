"""Does one setting do, whatever the scale? Additive against multiplicative rule.

    python benchmarks/hypergradient_scale.py [--steps 300]

Each row is one setting of one rule. It trains a dense network on two-class data with
SGD and with Adam, with the loss times 1, 1000 and 0.001, with 1e4 and with 1e6
parameters, from a learning rate that is 100 times too low and one that is 4 times
too high (for SGD these are divided by the factor on the loss, so that the problem is
the same). Shown is the loss at the end over the loss at the start; "div" where it
is not finite or above the start. A constant rate is the first row.
"""

import argparse
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hpfree_jax as hp

SIZES = {"1e4": 90, "1e6": 990}  # width of two hidden layers
INNERS = {  # a good constant rate for a loss times 1
    "SGD": (functools.partial(optax.sgd, momentum=0.9), 0.05),
    "Adam": (optax.adam, 0.003),
}


def make_params(width, generator):
    sizes = [16, width, width, 2]
    return [
        jnp.asarray(generator.normal(size=(i, o)) * (2 / i) ** 0.5, jnp.float32)
        for i, o in itertools.pairwise(sizes)
    ]


def loss(params, batch):
    x, labels = batch
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return optax.softmax_cross_entropy_with_integer_labels(
        x @ params[-1], labels
    ).mean()


def make_settings():
    settings = {"constant": lambda inner, rate: inner(rate)}
    for beta in (1e-6, 1e-4, 1e-2):
        settings[f"HD additive {beta:g}"] = functools.partial(
            _make, hp.hd, beta, "additive"
        )
    for beta in (0.02, 0.05):
        settings[f"HD multiplicative {beta:g}"] = functools.partial(
            _make, hp.hd, beta, "multiplicative"
        )
    settings["MARTHE additive 0.0001"] = functools.partial(
        _make, hp.marthe, 1e-4, "additive"
    )
    for beta in (0.02, 0.05):
        settings[f"MARTHE multiplicative {beta:g}"] = functools.partial(
            _make, hp.marthe, beta, "multiplicative"
        )
    return settings


def _make(method, beta, rule, inner, rate):
    return method(inner, rate, beta, rule=rule, adaptation_rate=0.0)


def train(tx, params, factor, num_steps, needs_value_fn):
    """Returns (final, initial) loss, without the factor, on fresh batches."""
    tx = optax.with_extra_args_support(tx)
    target = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)

    def draw(key):
        x = jax.random.normal(key, (64, 16))
        return x, (jnp.sum((x @ target) * x, axis=1) > 0).astype(jnp.int32)

    @jax.jit
    def step(params, state, key):
        batch = draw(key)
        value_fn = lambda p: factor * loss(p, batch)
        extra = {"value_fn": value_fn} if needs_value_fn else {}
        updates, state = tx.update(jax.grad(value_fn)(params), state, params, **extra)
        return optax.apply_updates(params, updates), state

    batch = draw(jax.random.key(99))
    batch = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves),
        batch,
        *[draw(jax.random.key(100 + i)) for i in range(7)],
    )
    before, state = loss(params, batch), tx.init(params)
    for key in jax.random.split(jax.random.key(0), num_steps):
        params, state = step(params, state, key)
    return float(loss(params, batch)), float(before)


def main():
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="scale-free rule")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--factors", nargs="*", type=float, default=[1.0, 1e3, 1e-3])
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    columns = [
        (size, inner, factor, start)
        for size in args.sizes
        for inner in INNERS
        for factor in args.factors
        for start in (0.01, 4.0)
    ]
    for size, inner, factor, start in columns:
        print(f"# {size} parameters, {inner}, loss x {factor:g}, start x {start:g}")
    print("setting".ljust(26) + "".join(f"{i:>7}" for i in range(len(columns))))
    for name, make in make_settings().items():
        if args.only not in name:
            continue
        cells = []
        for size, inner, factor, start in columns:
            factory, rate = INNERS[inner]
            rate = rate * start / (factor if inner == "SGD" else 1)
            params = make_params(SIZES[size], np.random.default_rng(0))
            after, before = train(
                make(factory, rate), params, factor, args.steps, "MARTHE" in name
            )
            diverged = not np.isfinite(after) or after > before
            cells.append("div" if diverged else f"{after / before:.3f}")
        print(name.ljust(26) + "".join(f"{cell:>7}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
