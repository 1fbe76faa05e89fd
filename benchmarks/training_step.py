"""Time of one training step of a fully-connected network, and of the whole trainer.

    python benchmarks/training_step.py [--rounds 30]

Times are medians over rounds in which every candidate runs in turn, in one process; a
ratio is the median over rounds. With PyTorch installed in the same environment, the
same step is timed there too, with AGD written for PyTorch from the paper (the
authors' licence does not allow their code here).
"""

import argparse
import itertools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleaved, median_ratio
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import FCN

DEPTH, WIDTH, BATCH, FEATURES, CLASSES = 8, 256, 128, 784, 10


def make_batch():
    """One batch of unit-variance inputs, and targets as the square loss wants them."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, FEATURES)).astype(np.float32)
    labels = generator.integers(CLASSES, size=BATCH)
    return x, np.sqrt(CLASSES) * np.eye(CLASSES, dtype=np.float32)[labels]


def make_jax_step(tx):
    """One jitted, donated step of the model in Flax."""
    model = FCN(FEATURES, DEPTH, WIDTH, CLASSES, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)

    def loss(params, x, y):
        return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

    def step(params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    step = jax.jit(step, donate_argnums=(0, 1))
    carry = [params, tx.init(params)]
    x, y = map(jnp.asarray, make_batch())

    def run():
        params, state, value = step(carry[0], carry[1], x, y)
        carry[:] = params, state
        value.block_until_ready()

    return run


def make_torch_step(method):
    """The same step in PyTorch: plain SGD, or AGD from the paper."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    sizes = [FEATURES, *[WIDTH] * (DEPTH - 1), CLASSES]
    weights = [
        (torch.nn.init.orthogonal_(torch.empty(o, i)) * (o / i) ** 0.5).requires_grad_()
        for i, o in itertools.pairwise(sizes)
    ]
    x, y = map(torch.tensor, make_batch())
    scales = [(w.shape[0] / w.shape[1]) ** 0.5 for w in weights]

    @torch.no_grad()
    def agd(grads):
        norms = [grad.norm() for grad in grads]
        summary = sum(s * n for s, n in zip(scales, norms, strict=True)) / DEPTH
        eta = torch.log((1 + torch.sqrt(1 + 4 * summary)) / 2)
        for weight, grad, scale, norm in zip(
            weights, grads, scales, norms, strict=True
        ):
            weight -= eta / DEPTH * torch.nan_to_num(scale / norm) * grad

    @torch.no_grad()
    def sgd(grads):
        for weight, grad in zip(weights, grads, strict=True):
            weight -= 1e-3 * grad

    update = {"agd": agd, "sgd": sgd}[method]

    def run():
        hidden = x @ weights[0].T
        for weight in weights[1:]:
            hidden = (torch.relu(hidden) * 2**0.5) @ weight.T
        update(torch.autograd.grad(torch.mean((hidden - y) ** 2), weights))

    return run


def main():
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="AGD's training step")
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    runs = {
        "agd": make_jax_step(hp.agd()),
        "sgd": make_jax_step(optax.sgd(1e-3)),
    }
    try:
        runs["agd in PyTorch"] = make_torch_step("agd")
        runs["sgd in PyTorch"] = make_torch_step("sgd")
    except ImportError:
        print("PyTorch is not installed: its rows are left out")
    times = interleaved(runs, rounds, calls=20)
    print(
        f"FCN depth {DEPTH}, width {WIDTH}, batch {BATCH}; jax {jax.__version__} on "
        f"{jax.devices()[0].device_kind}"
    )
    print(f"{'step':<16}{'ms, median':>12}{'agd / this':>12}")
    for name, seconds in times.items():
        ratio = median_ratio(times["agd"], seconds)
        print(f"{name:<16}{1e3 * statistics.median(seconds):>12.2f}{ratio:>12.2f}")


if __name__ == "__main__":
    main()
