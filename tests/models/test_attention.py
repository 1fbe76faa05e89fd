"""The attention of a CPU against that of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.models._attention import causal_attention


@pytest.mark.parametrize("time", [1, 7, 127, 128, 131])  # from 128 on in two halves
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_that_of_jax(time, dtype):
    random = np.random.default_rng(0)
    *inputs, cotangent = jnp.asarray(random.normal(size=(4, 2, time, 3, 4)), dtype)
    reference = lambda *x: jax.nn.dot_product_attention(*x, is_causal=True)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"atol": 0.05}

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(attention, *inputs):
        value, gradients = jax.vjp(attention, *inputs)
        return value, *gradients(cotangent)

    pairs = zip(
        value_and_gradients(causal_attention, *inputs),
        value_and_gradients(reference, *inputs),
        strict=True,
    )
    for a, b in pairs:
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), **tolerance
        )
