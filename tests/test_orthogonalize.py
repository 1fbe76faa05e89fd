"""Orthogonalisation against singular value decompositions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.descent._orthogonalize import POLISH, STEPS, orthogonalize

orthogonalize = jax.jit(orthogonalize)


def make_matrix(shape, singular_values, dtype=float, seed=0):
    """A random matrix with these singular values, and its semi-orthogonal factor."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        matrix = matrix + 1j * rng.normal(size=shape)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return (left * singular_values) @ right, left @ right


def evaluate(steps, x):
    for a, b, c in steps:
        x = a * x + b * x**3 + c * x**5
    return x


@pytest.mark.parametrize("number", range(len(STEPS)))
def test_each_step_is_the_best_odd_quintic_on_its_interval(number):
    """By Chebyshev: four points of equal error in turn above and below."""
    x = np.concatenate([np.geomspace(1e-3, 1e-2, 20_000), np.linspace(1e-2, 1, 80_000)])
    before = evaluate(STEPS[:number], x)
    inputs = np.linspace(before.min(), before.max(), 200_001)
    errors = evaluate(STEPS[number : number + 1], inputs) - 1
    turns = np.flatnonzero(np.diff(np.sign(np.diff(errors)))) + 1
    extremes = errors[[0, *turns, -1]]
    assert len(extremes) == 4
    np.testing.assert_allclose(extremes, np.max(extremes) * np.array([-1, 1, -1, 1]),
                               rtol=1e-3)  # fmt: skip


# Square and long ones go through different products.
@pytest.mark.parametrize("shape", [(8, 8), (8, 11), (8, 13), (40, 8), (1, 6)])
def test_singular_values_become_one(shape):
    rank = min(shape)
    matrix, factor = make_matrix(shape, np.geomspace(1, 2e-3, rank))
    with jax.enable_x64():
        result = orthogonalize(jnp.asarray(matrix))
    np.testing.assert_allclose(result, factor, rtol=0, atol=1e-8)
    result = orthogonalize(jnp.asarray(matrix, jnp.float32))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, factor, rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(6, 6), (6, 30)])
def test_every_singular_value_is_mapped_by_the_polynomials(shape):
    """Also those too small to become 1; and the singular vectors stay."""
    values = np.array([3.0, 2.0, 0.5, 1e-3, 1e-5, 0.0])
    matrix, _ = make_matrix(shape, values)
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    normed = sigma / np.sum(sigma**4) ** 0.25
    expected = (left * evaluate((*STEPS, *POLISH), normed)) @ right
    with jax.enable_x64():
        result = orthogonalize(jnp.asarray(matrix))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-8)


def test_complex_matrices_become_unitary():
    matrix, factor = make_matrix((5, 5), np.linspace(1, 0.1, 5), complex)
    result = orthogonalize(jnp.asarray(matrix, jnp.complex64))
    np.testing.assert_allclose(result, factor, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e25])
def test_the_scale_does_not_matter(scale):
    matrix, factor = make_matrix((6, 9), np.linspace(1, 0.1, 6))
    result = orthogonalize(jnp.asarray(matrix * scale, jnp.float32))
    np.testing.assert_allclose(result, factor, rtol=0, atol=2e-3)


def test_slices_of_a_stack_are_matrices_of_their_own():
    matrices = np.stack(
        [make_matrix((4, 7), [1, 0.5, 0.2, s], seed=s)[0] for s in (1, 2)]
    )
    matrices = np.concatenate([matrices, np.zeros((1, 4, 7))])
    result = orthogonalize(jnp.asarray(matrices, jnp.float32))
    for matrix, whole in zip(matrices, result, strict=True):
        alone = orthogonalize(jnp.asarray(matrix, jnp.float32))
        np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-6)
    assert not np.any(result[2])


def test_the_derivative_is_that_of_the_orthogonal_factor():
    matrix, _ = make_matrix((4, 6), [1.0, 0.7, 0.4, 0.2])
    tangent = np.random.default_rng(1).normal(size=(4, 6))
    with jax.enable_x64():
        _, derivative = jax.jvp(orthogonalize, (matrix,), (tangent,))
    step = 1e-5
    factors = []
    for sign in (1, -1):
        left, _, right = np.linalg.svd(
            matrix + sign * step * tangent, full_matrices=False
        )
        factors.append(left @ right)
    expected = (factors[0] - factors[1]) / (2 * step)
    np.testing.assert_allclose(derivative, expected, rtol=0, atol=1e-6)


def test_the_derivative_at_zero_is_finite():
    zero, one = jnp.zeros((3, 5)), jnp.ones((3, 5))
    value, derivative = jax.jvp(orthogonalize, (zero,), (one,))
    assert not np.any(value)
    assert np.all(np.isfinite(derivative))
