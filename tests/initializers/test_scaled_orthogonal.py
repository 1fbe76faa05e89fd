"""Singular values, distribution and arguments of scaled_orthogonal."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpfree_jax.initializers import scaled_orthogonal
from tests.reference import load_case

KEY = jax.random.key(0)


def singular_values(kernel, in_axis=-2, out_axis=-1):
    kernel = np.moveaxis(np.asarray(kernel, np.float64), (in_axis, out_axis), (-2, -1))
    return np.linalg.svd(kernel, compute_uv=False)


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((12, 16), math.sqrt(16 / 12)),
        ((16, 5), math.sqrt(5 / 16)),
        ((5, 8, 8), 1 / math.sqrt(5)),
        ((3, 3, 3, 6), math.sqrt(6 / 3) / 3),
        ((2, 2, 9, 4), math.sqrt(4 / 9) / 2),
        ((2, 1, 3, 4, 2), math.sqrt(2 / 4) / math.sqrt(6)),
        ((1, 7), math.sqrt(7)),
    ],
)
def test_all_singular_values_of_every_position_equal_the_scale(shape, scale):
    kernel = scaled_orthogonal()(KEY, shape)
    assert kernel.shape == shape
    np.testing.assert_allclose(singular_values(kernel), scale, rtol=1e-5)


def test_the_reference_draws_by_the_same_rule():
    settings, arrays = load_case("agd", "init_rule")
    weights = [a for name, a in sorted(arrays.items()) if name.startswith("weight")]
    for weight, scale in zip(weights, settings["scale"], strict=True):
        kernel = np.moveaxis(weight, (0, 1), (-1, -2))  # (*positions, in, out)
        ours = scaled_orthogonal()(KEY, kernel.shape)
        np.testing.assert_allclose(singular_values(kernel), scale, rtol=1e-12)
        np.testing.assert_allclose(singular_values(ours), scale, rtol=1e-5)


def test_positions_are_independent():
    kernel = scaled_orthogonal()(KEY, (2, 4, 4))
    assert not np.allclose(kernel[0], kernel[1], atol=0.1)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
def test_the_distribution_is_uniform(shape):
    # Entries of a Haar matrix have mean 0, variance 1 / n and, unlike those of QR
    # without its signs corrected, a symmetric diagonal. n is the longer side.
    draws = jax.vmap(lambda key: scaled_orthogonal()(key, shape))(
        jax.random.split(KEY, 4000)
    )
    scale = math.sqrt(shape[1] / shape[0])
    np.testing.assert_allclose(draws.mean(0) / scale, 0, atol=0.05)
    np.testing.assert_allclose((draws**2).mean(0) / scale**2, 1 / max(shape), atol=0.03)


def test_low_precision_is_drawn_in_float32():
    half = scaled_orthogonal()(KEY, (8, 8), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    full = scaled_orthogonal()(KEY, (8, 8))
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))
    with jax.enable_x64(True):
        double = scaled_orthogonal()(KEY, (8, 8), jnp.float64)
        np.testing.assert_allclose(singular_values(double), 1, rtol=1e-13)


def test_axes_and_divisor():
    kernel = scaled_orthogonal(3, in_axis=1, out_axis=0)(
        KEY, (12, 4)
    )  # PyTorch's order
    np.testing.assert_allclose(
        singular_values(kernel, in_axis=1, out_axis=0), math.sqrt(12 / (3 * 4)), 1e-5
    )
    query = scaled_orthogonal(in_axis=0, out_axis=(1, 2))(KEY, (6, 2, 4))
    np.testing.assert_allclose(
        singular_values(query.reshape(6, 8)), math.sqrt(8 / 6), rtol=1e-5
    )
    stacked = scaled_orthogonal(batch_axis=0)(KEY, (5, 4, 4))
    np.testing.assert_allclose(singular_values(stacked), 1, rtol=1e-5)


def test_flax_takes_it():
    linear = nnx.Linear(4, 16, kernel_init=scaled_orthogonal(), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(singular_values(linear.kernel[...]), 2, rtol=1e-5)
    conv = nn.Conv(4, (3, 3), kernel_init=scaled_orthogonal())
    kernel = conv.init(KEY, jnp.ones((1, 5, 5, 4)))["params"]["kernel"]
    np.testing.assert_allclose(singular_values(kernel), 1 / 3, rtol=1e-5)
    embed = nnx.Embed(4, 16, embedding_init=scaled_orthogonal(), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(singular_values(embed.embedding[...]), 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scaled_orthogonal(0.0), "`scale_divisor` must lie in"),
        (lambda: scaled_orthogonal()(KEY, (3,)), "`in_axis` -2 is no axis of a shape"),
        (lambda: scaled_orthogonal(in_axis=2)(KEY, (3, 3)), "`in_axis` 2 is no axis"),
        (lambda: scaled_orthogonal(in_axis=-1)(KEY, (3, 3)), "must be different axes"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
