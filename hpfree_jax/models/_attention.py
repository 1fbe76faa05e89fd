"""Causal attention: JAX's own, and on a CPU one that leaves out what is masked."""

import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SMALLEST = 64  # texts from twice this length on are cut in two


def causal_attention(
    queries: Float[Array, "batch time heads features"],
    keys: Float[Array, "batch time heads features"],
    values: Float[Array, "batch time heads features"],
) -> Float[Array, "batch time heads features"]:
    r"""Returns :math:`\mathrm{softmax}(QK^T/\sqrt d)\,V`, masked above the diagonal.

    That is :func:`jax.nn.dot_product_attention`. On a CPU XLA computes the masked half
    of it, too, and transposes the weights in memory for the product with the values. So
    there, heads come before time, and the first half of the queries meets the first
    half of the keys only: three quarters of the products, in half of the time
    (``benchmarks/gpt_tokens.py``). Softmax is in float32 in both.
    """
    if jax.default_backend() != "cpu":
        return jax.nn.dot_product_attention(queries, keys, values, is_causal=True)
    queries, keys, values = (x.swapaxes(1, 2) for x in (queries, keys, values))
    time = queries.shape[2]
    cuts = [0, time] if time < 2 * SMALLEST else [0, time // 2, time]
    parts = [
        _attend(queries[:, :, start:end], keys[:, :, :end], values[:, :, :end])
        for start, end in itertools.pairwise(cuts)
    ]
    return jnp.concatenate(parts, axis=2).swapaxes(1, 2)


def _attend(queries, keys, values):
    """Of queries at the end of the keys; (batch, heads, time, features)."""
    wide = jnp.promote_types(queries.dtype, jnp.float32)
    queries = queries / math.sqrt(queries.shape[-1])
    keys = keys.swapaxes(-1, -2)
    scores = jnp.matmul(queries, keys, preferred_element_type=wide)
    num_queries, num_keys = scores.shape[-2:]
    is_seen = jnp.tril(jnp.ones((num_queries, num_keys), bool), num_keys - num_queries)
    scores = jnp.where(is_seen, scores, jnp.finfo(wide).min)
    return jax.nn.softmax(scores).astype(values.dtype) @ values
