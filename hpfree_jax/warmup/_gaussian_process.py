"""Gaussian-process regression of a loss curve, on fixed-size data with gaps.

The only place that imports tinygp. The inputs lie in [0, 1] and the lengthscale is
fixed, so that the kernel is a product of a few dozen features: every solve becomes one
of that size.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float
from tinygp import GaussianProcess, kernels
from tinygp.noise import Noise
from tinygp.solvers.solver import Solver

from hpfree_jax._base import accumulator_dtype

MIN_LENGTHSCALE = 0.05  # features grow with its inverse square: 35 at 0.2, 200 here
NOISE_FLOOR = 1e-4  # in squared units of the loss
INITIAL_NOISE = 1e-3
_FIT_LEARNING_RATE = 0.01


class GPParameters(NamedTuple):
    """What the fit adapts; in units of the loss. Scalars of the accumulator's dtype."""

    raw_noise: Float[Array, ""]  # noise variance = 1e-4 + softplus(raw_noise)
    mean: Float[Array, ""]  # constant mean function
    raw_outputscale: Float[Array, ""]  # outputscale = softplus(raw_outputscale)

    @property
    def noise(self) -> Array:
        """The variance of the noise."""
        return NOISE_FLOOR + jax.nn.softplus(self.raw_noise)

    @property
    def outputscale(self) -> Array:
        """The prior variance of the function."""
        return jax.nn.softplus(self.raw_outputscale)


class GPState(NamedTuple):
    """The Gaussian process as it persists from one test to the next."""

    parameters: GPParameters
    optimizer_state: Any  # of Adam


class Points(NamedTuple):
    """Data of fixed size, some of which may be absent."""

    x: Float[Array, " n"]  # in [0, 1]
    y: Float[Array, " n"]
    is_present: Bool[Array, " n"]


class Prediction(NamedTuple):
    """Posterior of the noise-free function on a grid, its covariance in factors."""

    mean: Float[Array, " grid"]
    factor: Float[Array, "grid rank"]  # covariance = factor @ factor.T

    def variance(self) -> Array:
        """The diagonal of the covariance."""
        return jnp.sum(self.factor**2, axis=1)


def init(params_like: Any = 0.0) -> GPState:
    """A fresh process; ``params_like`` is a zero on the mesh that it shall live on."""
    zero = jnp.asarray(params_like, accumulator_dtype())
    raw_noise = math.log(math.expm1(INITIAL_NOISE - NOISE_FLOOR))
    parameters = GPParameters(zero + raw_noise, zero + 0.0, zero + 0.0)
    return GPState(parameters, _optimizer().init(parameters))


def num_features(lengthscale: ArrayLike) -> int:
    """How many features give the kernel on [0, 1] to float64 rounding.

    A traced lengthscale gets as many as the smallest one that is supported needs.
    """
    if isinstance(lengthscale, jax.Array):
        lengthscale = MIN_LENGTHSCALE
    rate = (0.5 / float(lengthscale)) ** 2
    pmf = lambda k: math.exp(k * math.log(rate) - rate - math.lgamma(k + 1))
    return next(k for k in itertools.count(math.ceil(rate)) if pmf(k) < 1e-17)


def features(x: Array, lengthscale: ArrayLike, num: int) -> Float[Array, "n rank"]:
    r"""Features :math:`\phi_k` with :math:`\sum_k \phi_k(x) \phi_k(x')` the RBF kernel.

    With :math:`u = (x - 1/2) / \ell`,
    :math:`e^{-(u - u')^2 / 2} = e^{-u^2/2} e^{-u'^2/2} \sum_k (u u')^k / k!`. The
    squares of the features at a point are the probabilities of a Poisson variable of
    mean :math:`u^2 \le 1 / (2\ell)^2`, whose tail says how many are needed.
    """
    u = (x - 0.5) / lengthscale
    ratios = u[:, None] / jnp.asarray(np.sqrt(np.arange(1, num)), u.dtype)
    first = jnp.exp(-(u**2) / 2)[:, None]
    return jnp.cumprod(jnp.concatenate([first, ratios], axis=1), axis=1)


class Basis(NamedTuple):
    """The features at the data and the spectrum of their Gram matrix."""

    features: Float[Array, "n rank"]  # zero where a point is absent
    eigenvalues: Float[Array, " rank"]  # of features.T @ features
    eigenvectors: Float[Array, "rank rank"]
    is_present: Bool[Array, " n"]


def make_basis(points: Points, lengthscale: ArrayLike, num: int) -> Basis:
    """Computes what all fits and predictions from the same points share."""
    phi = features(points.x, lengthscale, num)
    phi = jnp.where(points.is_present[:, None], phi, 0)
    eigenvalues, eigenvectors = jnp.linalg.eigh(phi.T @ phi)
    return Basis(phi, jnp.maximum(eigenvalues, 0), eigenvectors, points.is_present)


class FeatureSolver(Solver):
    r"""Solver of tinygp for :math:`K = s F F^T + \sigma^2 I` on the points present.

    Works with the weights of the features, :math:`w \sim N(0, s I)`. Given residuals
    :math:`r`, their posterior mean is :math:`\hat w = (F^T F + \tfrac{\sigma^2}{s})^{-1}
    F^T r`, and :math:`r^T K^{-1} r = \|r - F \hat w\|^2 / \sigma^2 + \|\hat w\|^2 / s`: a
    sum of squares, so that nothing cancels in float32 and nothing can fail to factorise.
    """

    basis: Basis
    outputscale: Array
    noise: Array

    def __init__(
        self,
        kernel: kernels.Kernel,
        X: Array,
        noise: Noise,
        *,
        covariance: Any = None,
        basis: Basis,
    ):
        del covariance
        self.basis = basis
        self.outputscale = kernel.evaluate_diag(X[0])  # stationary
        self.noise = noise.diagonal()[0]  # the same for all points

    def variance(self) -> Array:
        """The diagonal of the covariance matrix."""
        squares = jnp.sum(self.basis.features**2, axis=1)
        return self.outputscale * squares + self.noise

    def covariance(self) -> Array:
        """The covariance matrix, which nothing here needs."""
        phi = self.basis.features
        return self.outputscale * phi @ phi.T + self.noise * jnp.eye(len(phi))

    def normalization(self) -> Array:
        """(log det + n log 2 pi) / 2, of the points that are present."""
        ratios = self.outputscale * self.basis.eigenvalues / self.noise
        num_points = jnp.sum(self.basis.is_present, dtype=ratios.dtype)
        constant = num_points * jnp.log(2 * np.pi * self.noise)
        return 0.5 * (jnp.sum(jnp.log1p(ratios)) + constant)

    def solve_triangular(self, y: Array, *, transpose: bool = False) -> Array:
        """The product with A, of shape (n + rank, n), where A.T @ A inverts K."""
        phi, noise = self.basis.features, self.noise
        weight_scale = jnp.sqrt(self.outputscale)
        if transpose:
            residuals = y[: len(phi)] / jnp.sqrt(noise)
            inner = y[len(phi) :] / weight_scale - phi.T @ residuals
            return residuals + phi @ self._solve_weights(inner)
        residuals = jnp.where(self.basis.is_present, y, 0)
        weights = self.weights(residuals)
        residuals = residuals - phi @ weights
        return jnp.concatenate([residuals / jnp.sqrt(noise), weights / weight_scale])

    def dot_triangular(self, y: Array) -> Array:
        """Not defined: A is not square."""
        raise NotImplementedError("FeatureSolver conditions and does not sample.")

    def condition(self, kernel: kernels.Kernel, X_test: Any, noise: Noise) -> Array:
        """Not defined: the dense covariance is what this solver is there to avoid."""
        raise NotImplementedError("FeatureSolver predicts by `posterior_factor`.")

    def weights(self, residuals: Array) -> Array:
        """The posterior mean of the features' weights."""
        return self._solve_weights(self.basis.features.T @ residuals)

    def posterior_factor(self, test_features: Array) -> Array:
        """Returns B with B @ B.T the posterior covariance at the test points."""
        variances = self.outputscale / (
            1 + self.outputscale * self.basis.eigenvalues / self.noise
        )
        return test_features @ self.basis.eigenvectors * jnp.sqrt(variances)

    def _solve_weights(self, vector):
        vectors = self.basis.eigenvectors
        inverse = 1 / (self.basis.eigenvalues + self.noise / self.outputscale)
        return vectors @ (inverse * (vectors.T @ vector))


def process(
    parameters: GPParameters, points: Points, basis: Basis, lengthscale: ArrayLike
) -> GaussianProcess:
    """The Gaussian process of some parameters at the points, as tinygp has it."""
    kernel = parameters.outputscale * kernels.ExpSquared(jnp.asarray(lengthscale))
    return GaussianProcess(
        kernel,
        points.x,
        diag=parameters.noise,
        mean=parameters.mean,
        solver=FeatureSolver,
        basis=basis,
    )


def negative_log_likelihood(
    parameters: GPParameters, points: Points, basis: Basis, lengthscale: ArrayLike
) -> Float[Array, ""]:
    """-log p(y) per point that is present."""
    gp = process(parameters, points, basis, lengthscale)
    num_points = jnp.sum(points.is_present, dtype=points.y.dtype)
    return -gp.log_probability(points.y) / jnp.maximum(num_points, 1)


def fit(
    state: GPState, points: Points, lengthscale: ArrayLike, num_steps: ArrayLike
) -> tuple[GPState, Bool[Array, ""]]:
    """Improves the marginal likelihood from where the state is, by steps of Adam.

    Returns:
      The new state, and whether it is usable: if the likelihood or a parameter is not
      finite, the state is returned as it was.
    """
    basis = make_basis(points, lengthscale, num_features(lengthscale))
    # In float32 a mean of 1e6 could not move by 0.01: fit its distance from here.
    center = state.parameters.mean
    centered = points._replace(y=jnp.where(points.is_present, points.y - center, 0))
    loss = lambda p: negative_log_likelihood(p, centered, basis, lengthscale)

    def step(_, carry):
        parameters, optimizer_state, is_usable = carry
        value, grads = jax.value_and_grad(loss)(parameters)
        updates, optimizer_state = _optimizer().update(grads, optimizer_state)
        parameters = optax.apply_updates(parameters, updates)
        return parameters, optimizer_state, is_usable & jnp.isfinite(value)

    start = state.parameters._replace(mean=jnp.zeros_like(center))
    is_usable = jnp.any(points.is_present)
    parameters, optimizer_state, is_usable = jax.lax.fori_loop(
        0, num_steps, step, (start, state.optimizer_state, is_usable)
    )
    parameters = parameters._replace(mean=center + parameters.mean)
    new_state = GPState(parameters, optimizer_state)
    for leaf in jax.tree.leaves(new_state):
        is_usable &= jnp.all(jnp.isfinite(leaf))
    keep = lambda new, old: jnp.where(is_usable, new, old)
    return jax.tree.map(keep, new_state, state), is_usable


def predict(
    parameters: GPParameters, points: Points, grid: Array, lengthscale: ArrayLike
) -> Prediction:
    """Returns the posterior of the noise-free function on the grid."""
    num = num_features(lengthscale)
    basis = make_basis(points, lengthscale, num)
    solver: Any = process(parameters, points, basis, lengthscale).solver
    phi = features(grid, lengthscale, num)
    residuals = jnp.where(points.is_present, points.y - parameters.mean, 0)
    mean = parameters.mean + phi @ solver.weights(residuals)
    return Prediction(mean, solver.posterior_factor(phi))


def past_minimum_probability(prediction: Prediction) -> Float[Array, ""]:
    """The largest probability that the function was lower before the last point.

    max over i < k of P(f(x_i) < f(x_k)), k the last grid point, with 1e-4 added to the
    variances of the differences.
    """
    difference = prediction.mean[:-1] - prediction.mean[-1]
    # Var(f_i - f_k) from the factor: a difference of variances would cancel.
    variance = jnp.sum((prediction.factor[:-1] - prediction.factor[-1]) ** 2, axis=1)
    return jnp.max(jax.scipy.special.ndtr(-difference / jnp.sqrt(variance + 1e-4)))


def _optimizer() -> optax.GradientTransformation:
    return optax.adam(_FIT_LEARNING_RATE)
