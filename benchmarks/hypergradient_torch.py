"""A MARTHE step of ours against one written the way of the PyTorch port.

    python benchmarks/hypergradient_torch.py --torch-python ../venv-torch/bin/python

Both train the dense network of hypergradient_time.py with momentum and a validation
loss, each in a process of its own on the same two cores. The two take turns of a few
steps; while one works the other waits. Shown are the medians of the ratios
within rounds, and of the fastest turns.

The port's way, in our own words and code: a gradient that keeps its graph, flattened;
the Hessian-vector product by a second backward pass; tangents of the weights and of the
momentum by formulas for SGD; every entry clamped; the optimizer of PyTorch; a
second loss and its gradient for the hypergradient; the discount from an inner product.
"""

import argparse
import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from typing import Any

MOMENTUM, RATE, BETA = 0.9, 1e-3, 1e-8


def make_torch_runs():
    """Returns {name: function that takes and keeps one step} in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(2)
    sizes = [784, *[256] * 7, 10]

    def draw():
        return torch.randn(128, sizes[0]), torch.randint(10, (128,))

    batch, held_out = draw(), draw()

    def make():
        layers = [
            torch.nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(sizes)
        ]
        hidden = [m for layer in layers[:-1] for m in (layer, torch.nn.ReLU())]
        model = torch.nn.Sequential(*hidden, layers[-1])
        params = list(model.parameters())
        optimizer = torch.optim.SGD(params, lr=RATE, momentum=MOMENTUM)
        loss = lambda batch: torch.nn.functional.cross_entropy(
            model(batch[0]), batch[1]
        )
        return params, optimizer, loss

    def make_plain():
        _, optimizer, loss = make()

        def run():
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()

        return run

    def make_marthe():
        params, optimizer, loss = make()
        flatten = lambda leaves: torch.cat([leaf.reshape(-1) for leaf in leaves])
        clamp = lambda leaf: leaf.clamp(-100.0, 100.0)
        size = sum(p.numel() for p in params)
        tangent, velocity_tangent = torch.zeros(size), torch.zeros(size)
        discount, count, rate = 0.0, 0.0, RATE

        def run():
            nonlocal tangent, velocity_tangent, discount, count, rate
            grads = torch.autograd.grad(loss(batch), params, create_graph=True)
            flat = flatten(grads)
            products = torch.autograd.grad(flat @ tangent, params)
            with torch.no_grad():
                curvature = clamp(flatten(products))
                gradient = clamp(flat.detach())
                velocity = flatten(
                    [
                        optimizer.state[p].get("momentum_buffer", torch.zeros_like(p))
                        for p in params
                    ]
                )
                moved = curvature + MOMENTUM * velocity_tangent
                direct = MOMENTUM * velocity + gradient
                tangent = discount * (tangent - rate * moved) - direct
                velocity_tangent = discount * moved
                for param, grad in zip(params, grads, strict=True):
                    param.grad = clamp(grad.detach())
            optimizer.step()
            target = flatten(torch.autograd.grad(loss(held_out), params))
            target = clamp(target)
            hypergradient = float(target @ tangent)
            rate = rate - BETA * hypergradient
            expected = float(target @ gradient)
            quotient = hypergradient / expected if expected else 0.0
            count = (count + 1) * discount
            discount = min(max(quotient, 0.0), 1.0) ** (1 / (count + 1))
            for group in optimizer.param_groups:
                group["lr"] = rate

        return run

    return {"plain": make_plain(), "MARTHE": make_marthe()}


def make_jax_runs():
    """The same in JAX."""
    import jax.numpy as jnp
    import numpy as np
    import optax
    from hypergradient_time import draw, make_fcn, make_run

    import hpfree_jax as hp

    generator = np.random.default_rng(0)
    logits_of, params, shape = make_fcn(generator)
    batches = [
        (draw(generator, *shape), jnp.asarray(generator.integers(10, size=shape[0])))
        for _ in range(2)
    ]
    sgd = functools.partial(optax.sgd, momentum=MOMENTUM)
    make = lambda tx, validates: make_run(logits_of, params, batches, tx, validates)[0]
    return {
        "plain": make(sgd(RATE), False),
        "MARTHE": make(hp.marthe(sgd, RATE, BETA), True),
    }


def serve(make_runs):
    """Answers each line "name steps" on standard input with the seconds taken."""
    runs = make_runs()
    print("ready", flush=True)
    for line in sys.stdin:
        name, steps = line.split()
        runs[name]()  # wakes the threads up
        start = time.perf_counter()
        for _ in range(int(steps)):
            runs[name]()
        print(time.perf_counter() - start, flush=True)


def start(python, side):
    """Starts one side in a process of its own, and waits until it is ready."""
    process = subprocess.Popen(
        [python, __file__, "--serve", side],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{side} did not start with {python}: see its error above")
    return process


def take_turn(process, name, steps):
    """Returns the seconds of a step."""
    process.stdin.write(f"{name} {steps}\n")
    process.stdin.flush()
    return float(process.stdout.readline()) / steps


def main():
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="MARTHE in JAX and in PyTorch")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--serve", choices=["jax", "torch"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve({"jax": make_jax_runs, "torch": make_torch_runs}[args.serve])
    if hasattr(os, "sched_setaffinity"):  # inherited by both
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    sides: dict[str, Any] = {"jax": start(sys.executable, "jax")}
    sides["torch"] = start(args.torch_python, "torch")
    turns = list(itertools.product(sides, ("plain", "MARTHE")))
    seconds: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    for round_ in range(args.rounds + 2):
        for side, name in turns:
            taken = take_turn(sides[side], name, args.steps)
            if round_ > 1:
                seconds[side, name].append(taken)
    for process in sides.values():
        process.stdin.close()
        process.wait()
    print(f"{'ratio of steps':<34}{'median':>8}{'fastest':>9}")
    for one, other in (
        (("jax", "MARTHE"), ("torch", "MARTHE")),
        (("jax", "plain"), ("torch", "plain")),
        (("jax", "MARTHE"), ("jax", "plain")),
        (("torch", "MARTHE"), ("torch", "plain")),
    ):
        pairs = zip(seconds[one], seconds[other], strict=True)
        median = statistics.median(a / b for a, b in pairs)
        fastest = min(seconds[one]) / min(seconds[other])
        label = f"{' '.join(one)} / {' '.join(other)}"
        print(f"{label:<34}{median:>8.2f}{fastest:>9.2f}")
    print("Target: 0.6 in the first row.")


if __name__ == "__main__":
    main()
