"""Time and memory of one jitted, donated AGD update on ResNet-50-sized parameters.

    python benchmarks/agd_update.py [--repeats 15]

Prints each optimizer's median time and its ratio to AGD's, measured round by round in
one process, and the bytes of its state. With PyTorch installed in the same environment
it also times AGD written for PyTorch from the paper (the authors' licence does not
allow their code here).
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleaved, median_ratio

import hpfree_jax as hp


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Kernels (positions, in, out) of ResNet-50 without biases and norms: 25.5 M."""
    shapes: list[tuple[int, ...]] = [(7, 7, 3, 64)]
    width_in = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += [
                (1, 1, width_in, width),
                (3, 3, width, width),
                (1, 1, width, 4 * width),
            ]
            if block == 0:
                shapes.append((1, 1, width_in, 4 * width))
            width_in = 4 * width
    return [*shapes, (2048, 1000)]


def make_jax_step(tx, params, grads):
    """Returns a function that takes and keeps one step."""
    step = jax.jit(
        lambda params, state, grads: (
            lambda updates, state: (optax.apply_updates(params, updates), state)
        )(*tx.update(grads, state, params)),
        donate_argnums=(0, 1),
    )
    carry = [jax.tree.map(jnp.array, params), tx.init(params)]

    def run():
        carry[:] = step(*carry, grads)
        jax.block_until_ready(carry)

    return run


def make_torch_step(params, grads):
    """AGD in PyTorch, from the paper, in place."""
    import torch  # pyright: ignore[reportMissingImports]

    # (positions, in, out) -> PyTorch's (out, in, *positions)
    to_torch = lambda a: torch.tensor(
        np.ascontiguousarray(np.moveaxis(np.asarray(a), (-1, -2), (0, 1)))
    )
    weights = [to_torch(p) for p in params]
    gradients = [to_torch(g) for g in grads]

    @torch.no_grad()
    def run():
        depth = len(weights)
        norms, scales, summary = [], [], 0.0
        for grad in gradients:
            num_positions = grad[0, 0].numel()
            scale = (grad.shape[0] / grad.shape[1] / num_positions) ** 0.5
            norm = grad.norm(dim=(0, 1), keepdim=True)
            summary += scale * norm.sum()
            norms.append(norm)
            scales.append(scale)
        eta = torch.log((1 + torch.sqrt(1 + 4 * summary / depth)) / 2)
        for weight, grad, norm, scale in zip(
            weights, gradients, norms, scales, strict=True
        ):
            factor = torch.nan_to_num(scale / norm)
            weight -= eta / depth * factor * grad

    return run


def main():
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="AGD's update")
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    generator = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    params = [draw(shape) for shape in resnet50_shapes()]
    grads = [draw(shape) for shape in resnet50_shapes()]
    names = [f"layer_{i:02d}" for i in range(len(params))]
    tree = dict(zip(names, ({"kernel": p} for p in params), strict=True))
    grad_tree = dict(zip(names, ({"kernel": g} for g in grads), strict=True))
    size = sum(p.size for p in params)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {size:,} weights")

    methods = {
        "agd": hp.agd(),
        "agd, momentum": hp.agd(momentum=0.9),
        "sgd": optax.sgd(1e-3),
        "sgd, momentum": optax.sgd(1e-3, momentum=0.9),
        "adam": optax.adam(1e-3),
    }
    runs = {n: make_jax_step(tx, tree, grad_tree) for n, tx in methods.items()}
    try:
        runs["agd in PyTorch"] = make_torch_step(params, grads)
    except ImportError:
        print("PyTorch is not installed: its row is left out")
    times = interleaved(runs, repeats)
    print(f"{'optimizer':<16}{'ms, median':>12}{'agd / this':>12}{'state bytes':>14}")
    for name, seconds in times.items():
        ratio = median_ratio(times["agd"], seconds)
        bytes_ = "-"
        if name in methods:
            state = jax.eval_shape(methods[name].init, tree)
            bytes_ = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
            bytes_ = f"{bytes_:,}"
        median = 1e3 * statistics.median(seconds)
        print(f"{name:<16}{median:>12.1f}{ratio:>12.2f}{bytes_:>14}")


if __name__ == "__main__":
    main()
