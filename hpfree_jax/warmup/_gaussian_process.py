"""Gaussian-process regression of a loss curve, on fixed-size data with gaps.

The inputs lie in [0, 1] and the lengthscale is
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
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from hpfree_jax._base import accumulator_dtype

MIN_LENGTHSCALE = 0.05  # features grow with its inverse square: 30 at 0.2, 200 here
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
    optimizer_state: Any  # of Adam, on the three parameters in one vector


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
    optimizer_state = _optimizer().init(jnp.stack(parameters))
    on_mesh = lambda leaf: leaf + zero.astype(leaf.dtype)
    return GPState(parameters, jax.tree.map(on_mesh, optimizer_state))


def num_features(lengthscale: Any) -> int:
    """How many features give the kernel on [0, 1] to rounding.

    A traced lengthscale gets as many as the smallest one that is supported needs.
    """
    if isinstance(lengthscale, jax.Array):
        lengthscale = MIN_LENGTHSCALE
    rate = (0.5 / float(lengthscale)) ** 2
    pmf = lambda k: math.exp(k * math.log(rate) - rate - math.lgamma(k + 1))
    negligible = float(jnp.finfo(accumulator_dtype()).eps) / 100
    return next(k for k in itertools.count(math.ceil(rate)) if pmf(k) < negligible)


def features(x: Array, lengthscale: ArrayLike) -> Float[Array, "n rank"]:
    r"""Features :math:`\phi_k` with :math:`\sum_k \phi_k(x) \phi_k(x')` the RBF kernel.

    With :math:`u = (x - 1/2) / \ell`,
    :math:`e^{-(u - u')^2 / 2} = e^{-u^2/2} e^{-u'^2/2} \sum_k (u u')^k / k!`. The
    squares of the features at a point are the probabilities of a Poisson variable of
    mean :math:`u^2 \le 1 / (2\ell)^2`, whose tail says how many are needed.
    """
    u = ((x - 0.5) / lengthscale)[:, None]
    k = np.arange(num_features(lengthscale))
    log_roots = np.array([math.lgamma(i + 1) / 2 for i in k])  # of k!
    # In logarithms, where no power overflows; the clip is for log 0.
    log_size = jnp.log(jnp.maximum(jnp.abs(u), jnp.finfo(u.dtype).tiny))
    size = jnp.exp(k.astype(u.dtype) * log_size - log_roots.astype(u.dtype) - u**2 / 2)
    return jnp.where((u < 0) & (k % 2 == 1), -size, size)


class RotatedPoints(NamedTuple):
    """Points in an eigenbasis of their kernel matrix, where it is diagonal.

    In the directions that are not listed, y, the constant and the kernel are zero.
    """

    y: Float[Array, " rank+2"]
    one: Float[Array, " rank+2"]  # the coordinates of the constant 1
    eigenvalues: Float[Array, " rank+2"]  # of the kernel matrix of unit outputscale
    num_points: Float[Array, ""]  # present


def rotate(points: Points, lengthscale: ArrayLike) -> RotatedPoints:
    """Changes to coordinates in which a likelihood costs a few dozen operations."""
    phi = features(points.x, lengthscale)
    columns = jnp.concatenate([phi, jnp.ones_like(phi[:, :1]), points.y[:, None]], 1)
    columns = jnp.where(points.is_present[:, None], columns, 0)
    # By QR, so that the basis is orthonormal also where eigenvalues are tiny.
    triangular = jnp.linalg.qr(columns, mode="r")
    phi, vectors = triangular[:, :-2], triangular[:, -2:]
    eigenvalues, rotation = jnp.linalg.eigh(phi @ phi.T, symmetrize_input=False)
    one, y = (rotation.T @ vectors).T
    num_points = jnp.sum(points.is_present, dtype=y.dtype)
    return RotatedPoints(y, one, jnp.maximum(eigenvalues, 0), num_points)


def fit(
    state: GPState, points: Points, lengthscale: ArrayLike, num_steps: ArrayLike
) -> tuple[GPState, Bool[Array, ""]]:
    """Improves the marginal likelihood from where the state is, by steps of Adam.

    Returns:
      The new state, and whether it is finite, as it is unless the likelihood was not.
    """
    # Here, so that only who makes an AutoWU step waits for tinygp and equinox.
    from hpfree_jax.warmup._likelihood import negative_log_likelihood

    # In float32 a mean of 1e6 could not move by 0.01: fit its distance from here.
    center = state.parameters.mean
    rotated = rotate(points._replace(y=points.y - center), lengthscale)
    start = state.parameters._replace(mean=jnp.zeros_like(center))
    slope = jax.grad(
        lambda vector: negative_log_likelihood(
            GPParameters(*vector), rotated, lengthscale
        )
    )

    def step(_, carry):
        vector, optimizer_state = carry
        updates, optimizer_state = _optimizer().update(slope(vector), optimizer_state)
        return vector + updates, optimizer_state

    vector, optimizer_state = jax.lax.fori_loop(
        0, num_steps, step, (jnp.stack(start), state.optimizer_state)
    )
    numbers, _ = ravel_pytree((vector + center, optimizer_state))
    is_usable = jnp.all(jnp.isfinite(numbers)) & (rotated.num_points > 0)
    parameters = GPParameters(*vector)
    parameters = parameters._replace(mean=center + parameters.mean)
    return GPState(parameters, optimizer_state), is_usable


def predict(
    parameters: GPParameters, points: Points, grid: Array, lengthscale: ArrayLike
) -> Prediction:
    r"""Returns the posterior of the noise-free function on the grid.

    By the weights of the features: with :math:`w \sim N(0, s I)`, noise
    :math:`\sigma^2` and features :math:`F` at the points, their posterior covariance is
    :math:`(F^T F / \sigma^2 + I / s)^{-1}`, diagonal in the eigenbasis of
    :math:`F^T F`. Nothing is subtracted, so that nothing cancels in float32.
    """
    both = features(jnp.concatenate([grid, points.x]), lengthscale)
    on_grid, phi = jnp.split(both, [grid.shape[0]])
    phi = jnp.where(points.is_present[:, None], phi, 0)
    residuals = jnp.where(points.is_present, points.y - parameters.mean, 0)
    eigenvalues, vectors = jnp.linalg.eigh(phi.T @ phi, symmetrize_input=False)
    precisions = jnp.maximum(eigenvalues, 0) + parameters.noise / parameters.outputscale
    on_grid = on_grid @ vectors
    weights = (vectors.T @ (phi.T @ residuals)) / precisions
    return Prediction(
        mean=parameters.mean + on_grid @ weights,
        factor=on_grid * jnp.sqrt(parameters.noise / precisions),
    )


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
