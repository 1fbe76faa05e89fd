"""The marginal likelihood of a loss curve: the only place that imports tinygp."""

import math
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from tinygp import GaussianProcess, kernels
from tinygp.noise import Noise
from tinygp.solvers.solver import Solver


class EigenSolver(Solver):
    """Solver of tinygp for rotated points, whose covariance is diagonal."""

    variances: Array  # of the coordinates
    noise: Array
    num_points: Array

    def __init__(
        self,
        kernel: kernels.Kernel,
        X: Array,
        noise: Noise,
        *,
        covariance: Any = None,
        points: Any,
    ):
        del covariance
        outputscale = kernel.evaluate_diag(X[0])  # the kernel is stationary
        self.noise = noise.diagonal()[0]  # the same for all points
        self.variances = outputscale * points.eigenvalues + self.noise
        self.num_points = points.num_points

    def variance(self) -> Array:
        """The diagonal of the covariance matrix."""
        return self.variances

    def covariance(self) -> Array:
        """The covariance matrix."""
        return jnp.diag(self.variances)

    def normalization(self) -> Array:
        """(log det + n log 2 pi) / 2, with the directions that are not listed."""
        num_unlisted = self.num_points - self.variances.shape[0]
        log_det = jnp.sum(jnp.log(self.variances)) + num_unlisted * jnp.log(self.noise)
        return (log_det + self.num_points * math.log(2 * math.pi)) / 2

    def solve_triangular(self, y: Array, *, transpose: bool = False) -> Array:
        """Divides by the root of the covariance."""
        return y / jnp.sqrt(self.variances)

    def dot_triangular(self, y: Array) -> Array:
        """Multiplies by the root of the covariance."""
        return y * jnp.sqrt(self.variances)

    def condition(self, kernel: kernels.Kernel, X_test: Any, noise: Noise) -> Any:
        """Not defined: a grid has no rotated coordinates. See :func:`predict`."""
        raise NotImplementedError("Predict with `predict`, from points as they are.")


def negative_log_likelihood(
    parameters: Any, points: Any, lengthscale: ArrayLike
) -> Float[Array, ""]:
    """-log p(y) per point that is present, from GPParameters and RotatedPoints."""
    gp = GaussianProcess(
        parameters.outputscale * kernels.ExpSquared(jnp.asarray(lengthscale)),
        points.one,
        diag=parameters.noise,
        mean=lambda one: parameters.mean * one,
        solver=EigenSolver,
        points=points,
    )
    return -gp.log_probability(points.y) / jnp.maximum(points.num_points, 1)
