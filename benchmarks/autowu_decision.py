"""What AutoWU costs: one decision, a step without one, and compilation.

    python benchmarks/autowu_decision.py [--repeats 30] [--gpytorch-python PATH]

where PATH is the Python of an environment made by

    python -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install torch==2.13.0 gpytorch==1.15.2

A decision is a fit of 100 Adam steps to at most 100 losses and 5 predictions on 500
points, from 100 or from 500 losses (and, as a row of its own, a fit to all 500). Beside
ours: the same with tinygp's dense solver, compiled, and, where the Python of another
environment has torch and gpytorch, the way of the original (gpytorch on the host,
written here). A step is one of Adam on a dense network, with a fixed rate and with
AutoWU, measured in turns, in a scan and one call at a time; the compile times are those
of these two steps.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tinygp import GaussianProcess, kernels

import hpfree_jax as hp
from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._gaussian_process import GPParameters, Points

LENGTHSCALE, NUM_STEPS, NUM_TESTS, NUM_GRID = 0.2, 100, 5, 500

GPYTORCH = """
import statistics, time, torch, gpytorch
class Model(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood):
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        self.covar_module.base_kernel.lengthscale = 0.2
        self.covar_module.base_kernel.raw_lengthscale.requires_grad_(False)
    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(
            self.mean_module(x), self.covar_module(x))
def decide(x, y, num_fit):
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = 1e-3
    model = Model(x[:: len(x) // num_fit], y[:: len(x) // num_fit], likelihood)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.01)
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    model.train(); likelihood.train()
    for _ in range(100):
        optimizer.zero_grad()
        (-objective(model(model.train_inputs[0]), model.train_targets)).backward()
        optimizer.step()
    grid = torch.linspace(0, 1, 500)
    for _ in range(5):
        model.set_train_data(x, y, strict=False)
        model.eval()
        with torch.no_grad():
            f = model(grid)
            cov = f.covariance_matrix
            d = f.mean[:-1] - f.mean[-1]
            v = cov.diagonal()[:-1] + cov[-1, -1] - 2 * cov[:-1, -1] + 1e-4
            torch.distributions.Normal(d, v.sqrt()).cdf(torch.zeros(())).max()
for n, num_fit in ((100, 100), (500, 100), (500, 500)):
    x = torch.arange(n) / n
    y = 5 * (x - 0.6) ** 2 + 0.05 * torch.randn(n)
    times = []
    for _ in range(6):
        start = time.perf_counter(); decide(x, y, num_fit)
        times.append(time.perf_counter() - start)
    print(f"gpytorch, float32, {n} losses, {num_fit} fitted: "
          f"{1e3 * statistics.median(times[1:]):.1f} ms")
"""


def ours(state, points, fitted):
    """A decision as the step makes it, each prediction from data of its own."""
    state, _ = gaussian_process.fit(state, fitted, LENGTHSCALE, NUM_STEPS)
    grid = jnp.linspace(0, 1, NUM_GRID)

    def predict(shift):  # by data that differ, so that nothing can be computed once
        moved = points._replace(y=points.y + shift)
        prediction = gaussian_process.predict(
            state.parameters, moved, grid, LENGTHSCALE
        )
        return gaussian_process.past_minimum_probability(prediction)

    return state, jax.lax.map(predict, jnp.linspace(0, 1e-3, NUM_TESTS))


def dense(state, points, fitted):
    """The same decision with tinygp as it is."""
    process = lambda parameters, x: GaussianProcess(
        parameters.outputscale * kernels.ExpSquared(jnp.asarray(LENGTHSCALE)),
        x,
        diag=parameters.noise,
        mean=parameters.mean,
    )
    optimizer = optax.adam(0.01)

    def loss(vector):
        gp = process(GPParameters(*vector), fitted.x)
        return -gp.log_probability(fitted.y) / len(fitted.y)

    def step(_, carry):
        vector, optimizer_state = carry
        updates, optimizer_state = optimizer.update(
            jax.grad(loss)(vector), optimizer_state
        )
        return vector + updates, optimizer_state

    start = jnp.stack(state.parameters)
    vector, _ = jax.lax.fori_loop(0, NUM_STEPS, step, (start, optimizer.init(start)))
    grid = jnp.linspace(0, 1, NUM_GRID)

    def predict(shift):
        gp = process(GPParameters(*vector), points.x)
        mean, cov = gp.predict(points.y + shift, grid, return_cov=True)
        variance = jnp.diag(cov)[:-1] + cov[-1, -1] - 2 * cov[:-1, -1] + 1e-4
        return jnp.max(
            jax.scipy.special.ndtr((mean[-1] - mean[:-1]) / jnp.sqrt(variance))
        )

    return vector, jax.lax.map(predict, jnp.linspace(0, 1e-3, NUM_TESTS))


def milliseconds(function, repeats):
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(1e3 * (time.perf_counter() - start))
    return f"{statistics.median(times):8.2f} (least {min(times):.2f})"


def time_decisions(repeats):
    print(f"{'decision, ms':<44}{'median':>8}")
    for x64 in (False, True):
        with jax.enable_x64(x64):
            for num_losses, num_fit in ((100, 100), (500, 100), (500, 500)):
                generator = np.random.default_rng(0)
                x = np.arange(num_losses) / num_losses
                y = 5 * (x - 0.6) ** 2 + 0.05 * generator.normal(size=num_losses)
                points = Points(
                    jnp.asarray(x, float),
                    jnp.asarray(y, float),
                    jnp.ones(num_losses, bool),
                )
                fitted = jax.tree.map(lambda a, n=num_losses // num_fit: a[::n], points)
                state = gaussian_process.init()
                label = f"float{64 if x64 else 32}, {num_losses} losses, {num_fit} fit"
                for name, function, most in (
                    ("ours", ours, repeats),
                    ("tinygp, dense", dense, 3),  # seconds, where two cores are busy
                ):
                    compiled = jax.jit(function).lower(state, points, fitted).compile()
                    run = functools.partial(compiled, state, points, fitted)
                    found = milliseconds(run, min(repeats, most))
                    print(f"{name + ', ' + label:<44}{found}")


def loss(params, batch):
    x, labels = batch
    for kernel in params[:-1]:
        x = jnp.tanh(x @ kernel)
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ params[-1], labels)
    return losses.mean()


def time_steps(batch_size, repeats):
    """Steps of Adam with a fixed rate, against the same with AutoWU, in turns.

    Ten of them in one ``lax.scan``: what is computed. One by one: with the dispatch of
    a call, which grows with the number of arrays in the state.
    """
    generator = np.random.default_rng(0)
    params = [
        jnp.asarray(generator.normal(size=shape) / 16, jnp.float32)
        for shape in ((784, 256), (256, 256), (256, 10))
    ]
    batch = (
        jnp.asarray(generator.normal(size=(batch_size, 784)), jnp.float32),
        jnp.asarray(generator.integers(0, 10, size=batch_size)),
    )
    methods = {
        "fixed": optax.with_extra_args_support(optax.adam(1e-4)),
        # No test within the steps that are timed.
        "AutoWU": hp.autowu(optax.scale_by_adam(), 400_000, 50_000, patience=2),
    }
    programs: dict[str, Any] = {}
    seconds = {}
    for name, tx in methods.items():

        def step(carry, batch, tx=tx):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, batch)
            updates, state = tx.update(grads, state, params, value=value)
            return optax.apply_updates(params, updates), state

        def ten_steps(carry, batch, step=step):
            body = lambda carry, _: (step(carry, batch), None)
            return jax.lax.scan(body, carry, length=10)[0]

        compiled = jax.jit(step, donate_argnums=0)

        def ten_calls(carry, batch, compiled=compiled):
            for _ in range(10):
                carry = compiled(carry, batch)
            return carry

        carry = (jax.tree.map(jnp.array, params), tx.init(params))
        start = time.perf_counter()
        jax.jit(step).lower(carry, batch).compile()
        seconds[name] = time.perf_counter() - start
        programs[name] = (
            (jax.jit(ten_steps, donate_argnums=0), carry),
            (ten_calls, jax.tree.map(jnp.array, carry)),
        )
    for way, title in enumerate(("in a scan", "one by one")):
        run = {name: programs[name][way][0] for name in programs}
        carries = {name: run[name](programs[name][way][1], batch) for name in programs}
        times = {name: [] for name in programs}
        for _ in range(repeats):
            for name in programs:
                jax.block_until_ready(carries)
                start = time.perf_counter()
                carries[name] = jax.block_until_ready(run[name](carries[name], batch))
                times[name].append(1e2 * (time.perf_counter() - start))
        ratios = [a / b for a, b in zip(times["AutoWU"], times["fixed"], strict=True)]
        least = {name: min(times[name]) for name in times}
        print(
            f"step, batch {batch_size}, {title}: fixed {least['fixed']:.3f} ms, AutoWU "
            f"{least['AutoWU']:.3f} ms at least; ratio {statistics.median(ratios):.3f} "
            f"(median), {least['AutoWU'] / least['fixed']:.3f} (of the least)"
        )
    print(
        f"compiled in {seconds['fixed']:.2f} s (fixed), {seconds['AutoWU']:.2f} s "
        "(AutoWU)"
    )


def main():
    parser = argparse.ArgumentParser(description="cost of AutoWU")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--gpytorch-python", help="of an environment with gpytorch")
    args = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, Python {sys.version.split()[0]}")
    for batch_size in (128, 1024):
        time_steps(batch_size, args.repeats)
    time_decisions(args.repeats)
    if args.gpytorch_python:
        subprocess.run([args.gpytorch_python, "-c", GPYTORCH], check=True)


if __name__ == "__main__":
    main()
