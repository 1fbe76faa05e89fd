"""The Gaussian process against tinygp's dense solver, on data without padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tinygp import GaussianProcess, kernels

from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._gaussian_process import GPParameters, Points
from hpfree_jax.warmup._likelihood import negative_log_likelihood

CAPACITY = 60


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def ours(parameters, points, lengthscale):
    rotated = gaussian_process.rotate(points, lengthscale)
    grid = jnp.linspace(0, 1, 100)
    return (
        negative_log_likelihood(parameters, rotated, lengthscale),
        gaussian_process.predict(parameters, points, grid, lengthscale),
    )


@pytest.mark.parametrize("lengthscale", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("num_points", [1, 7, 50])
def test_exact_against_dense_whatever_is_absent(lengthscale, num_points):
    generator = np.random.default_rng(num_points)
    index = np.sort(generator.permutation(CAPACITY)[:num_points])
    is_present = np.zeros(CAPACITY, bool)
    is_present[index] = True
    x = generator.uniform(size=CAPACITY)
    y = np.where(is_present, 3 + generator.normal(size=CAPACITY), 7.0)
    parameters = GPParameters(*map(jnp.asarray, (-5.0, 2.5, 0.5)))
    # 1e6 where absent must not matter.
    points = Points(
        jnp.asarray(np.where(is_present, x, 1e6)), jnp.asarray(y), is_present
    )
    likelihood, prediction = ours(parameters, points, jnp.asarray(lengthscale))

    gp = GaussianProcess(
        parameters.outputscale * kernels.ExpSquared(jnp.asarray(lengthscale)),
        jnp.asarray(x[index]),
        diag=parameters.noise,
        mean=parameters.mean,
    )
    log_probability = gp.log_probability(jnp.asarray(y[index]))
    np.testing.assert_allclose(likelihood, -log_probability / num_points, rtol=1e-8)
    mean, cov = gp.predict(
        jnp.asarray(y[index]), jnp.linspace(0, 1, 100), return_cov=True
    )
    # tinygp adds sqrt(eps) to the diagonal.
    cov = cov - np.sqrt(np.finfo(float).eps) * np.eye(100)
    np.testing.assert_allclose(prediction.mean, mean, atol=1e-8)
    found = prediction.factor @ prediction.factor.T
    np.testing.assert_allclose(found, cov, atol=1e-8)
    np.testing.assert_allclose(prediction.variance(), np.diag(cov), atol=1e-8)


@pytest.mark.parametrize("lengthscale", [0.05, 0.07, 0.2, 3.0])
def test_the_features_are_the_kernel(lengthscale):
    x = jnp.linspace(0, 1, 101)
    phi = gaussian_process.features(x, lengthscale)
    kernel = jnp.exp(-((x[:, None] - x) ** 2) / 2 / lengthscale**2)
    np.testing.assert_allclose(phi @ phi.T, kernel, atol=1e-12)


@jax.jit
def fit_and_predict(points):
    state, is_usable = gaussian_process.fit(gaussian_process.init(), points, 0.2, 50)
    grid = jnp.linspace(0, 1, 100)
    prediction = gaussian_process.predict(state.parameters, points, grid, 0.2)
    numbers = (*state.parameters, prediction.mean, prediction.variance())
    return is_usable, numbers


def test_float32_is_close_to_float64():
    generator = np.random.default_rng(0)
    x = np.arange(CAPACITY) / CAPACITY
    y = 1e4 + 5 * (x - 0.6) ** 2 + 0.05 * generator.normal(size=CAPACITY)
    found = []
    for x64 in (True, False):
        with jax.enable_x64(x64):
            points = Points(jnp.asarray(x), jnp.asarray(y - 1e4), jnp.asarray(x >= 0))
            is_usable, numbers = fit_and_predict(points)
            assert is_usable
            found.append(numbers)
    for exact, rounded in zip(*found, strict=True):
        np.testing.assert_allclose(rounded, exact, atol=1e-4)
