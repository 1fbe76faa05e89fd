"""The attention of a CPU against that of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.models._attention import causal_attention


@pytest.mark.parametrize("time", [1, 7, 127, 128, 131])  # from 128 on in two halves
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_that_of_jax(time, dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, cotangent = (jax.random.normal(k, (2, time, 3, 4), dtype) for k in keys)
    reference = lambda *x: jax.nn.dot_product_attention(*x, is_causal=True)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"atol": 0.05}
    found, gradient = jax.vjp(causal_attention, *inputs)
    expected, expected_gradient = jax.vjp(reference, *inputs)
    assert found.dtype == expected.dtype == dtype
    pairs = [(found, expected)]
    pairs += zip(gradient(cotangent), expected_gradient(cotangent), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(
            *(x.astype(jnp.float32) for x in (a, b)), **tolerance
        )
