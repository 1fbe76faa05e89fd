"""Wall time of a whole MARTHE step, relative to a plain step of the same network.

    python benchmarks/hypergradient_time.py [--rounds 30]

The networks are dense (784, 7 layers of 256, 10; batches of 128) and a small VGG
(32 x 32 x 3 images, batches of 32). Parameters and states are donated, as in a training
loop. In each round every step takes its turn; shown is the median of the ratios within
rounds, which other work on the machine disturbs least, and the ratio of the
fastest times.
"""

import argparse
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleaved, median_ratio

import hpfree_jax as hp

TARGET = 3.0  # MARTHE with a validation loss
SIZES = [784, *[256] * 7, 10]
CHANNELS = [3, 32, 32, 64, 64]


def draw(generator, *shape, scale=1.0):
    return jnp.asarray(scale * generator.normal(size=shape), jnp.float32)


def make_fcn(generator):
    """Returns (logits, params, shape of a batch) of the dense network."""
    params = [
        draw(generator, i, o, scale=(2 / i) ** 0.5)
        for i, o in itertools.pairwise(SIZES)
    ]

    def logits_of(params, x):
        for kernel in params[:-1]:
            x = jax.nn.relu(x @ kernel)
        return x @ params[-1]

    return logits_of, params, (128, SIZES[0])


def make_vgg(generator):
    """Returns (logits, params, shape of a batch) of four convolutions and a readout."""
    kernels = [
        draw(generator, 3, 3, i, o, scale=(2 / 9 / i) ** 0.5)
        for i, o in itertools.pairwise(CHANNELS)
    ]
    biases = [jnp.zeros(channels) for channels in CHANNELS[1:]]
    params = (kernels, biases, draw(generator, 4 * 4 * CHANNELS[-1], 10, scale=0.03))

    def logits_of(params, x):
        kernels, biases, readout = params
        for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
            if layer != 2:
                n, height, width, channels = x.shape
                x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        return x.reshape(len(x), -1) @ readout

    return logits_of, params, (32, 32, 32, 3)


def make_methods(inner):
    """The optimizers that are compared, and whether each takes a validation loss."""
    return {
        "plain": (inner(1e-3), False),
        "HD": (hp.hd(inner, 1e-3), False),
        "RTHO": (hp.rtho(inner, 1e-3, 1e-8), False),
        "MARTHE": (hp.marthe(inner, 1e-3), False),
        "RTHO, validation": (hp.rtho(inner, 1e-3, 1e-8), True),
        "MARTHE, validation": (hp.marthe(inner, 1e-3), True),
    }


def make_run(logits_of, params, batches, tx, validates):
    """Returns a function that takes and keeps one step, and the step's FLOPs."""
    tx = optax.with_extra_args_support(tx)

    def loss(params, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits_of(params, batch[0]), batch[1]
        )
        return losses.mean()

    def step(params, state, batch, held_out):
        value_fn = lambda params: loss(params, batch)
        validation = {"validation_fn": lambda p: loss(p, held_out)} if validates else {}
        updates, state = tx.update(
            jax.grad(value_fn)(params), state, params, value_fn=value_fn, **validation
        )
        return optax.apply_updates(params, updates), state

    carry = [jax.tree.map(jnp.array, params), tx.init(params)]
    jitted = jax.jit(step, donate_argnums=(0, 1))
    compiled = jitted.lower(*carry, *batches).compile()

    def run():
        carry[:] = jitted(*carry, *batches)
        jax.block_until_ready(carry)

    return run, compiled.cost_analysis()["flops"]  # pyright: ignore[reportOptionalSubscript]


def main():
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description="wall time of hypergradients")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="*", default=["fcn", "vgg"])
    parser.add_argument("--inners", nargs="*", default=["momentum", "adam"])
    args = parser.parse_args()
    inners = {
        "momentum": functools.partial(optax.sgd, momentum=0.9),
        "adam": optax.adam,
    }
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {args.rounds} rounds"
    )
    for network, inner in itertools.product(args.networks, args.inners):
        generator = np.random.default_rng(0)
        logits_of, params, shape = {"fcn": make_fcn, "vgg": make_vgg}[network](
            generator
        )
        batches = [
            (
                draw(generator, *shape),
                jnp.asarray(generator.integers(10, size=shape[0])),
            )
            for _ in range(2)
        ]
        runs, flops = {}, {}
        for name, (tx, validates) in make_methods(inners[inner]).items():
            runs[name], flops[name] = make_run(
                logits_of, params, batches, tx, validates
            )
        seconds = interleaved(runs, args.rounds, calls=8 if network == "fcn" else 2)
        plain = seconds["plain"]
        print(
            f"\n{network + ', ' + inner:<22}{'FLOPs':>8}{'median':>8}{'fastest':>9}"
            f"{'ms':>8}"
        )
        for name, times in seconds.items():
            median = median_ratio(times, plain)
            print(
                f"{name:<22}{flops[name] / flops['plain']:>8.2f}{median:>8.2f}"
                f"{min(times) / min(plain):>9.2f}{1e3 * min(times):>8.2f}"
            )
    print(f"\nTarget: {TARGET} for MARTHE with a validation loss.")


if __name__ == "__main__":
    main()
