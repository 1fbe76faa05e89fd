"""How the discount adapts, and the inner products that move the scalars."""

from typing import Literal

import jax
import jax.numpy as jnp

from hpfree_jax._base import total

Rule = Literal["additive", "multiplicative"]


def adapt_discount(state, target):
    """MARTHE's rule: mu and c, from last call's D and B and the gradient now."""
    quotients = []
    for name, direct in state.direct_tangents.items():
        expected = dot(target, jax.tree.leaves(direct))
        is_safe = (expected != 0) & jnp.isfinite(expected)
        quotient = state.hypergradients[name] / jnp.where(is_safe, expected, 1)
        quotient = jnp.where(is_safe & jnp.isfinite(quotient), quotient, 0)
        quotients.append(jnp.clip(quotient, 0, 1))
    mean = sum(quotients) / len(quotients)
    count = (state.discount_count + 1) * state.discount
    return mean ** (1 / (count + 1)), count


def dot(one, other):
    """The real inner product of two lists of leaves, in the precision of scalars."""
    # A sum and not a vdot, which fails on leaves sharded along their last axis.
    products = [
        jnp.real(jnp.sum(jnp.conj(a) * b)) for a, b in zip(one, other, strict=True)
    ]
    return total(products)


def cosine(product, one, other):
    """The cosine of the angle between two lists of leaves; 0 if one of them is 0.

    ``product`` is their inner product. Not finite where it, or a square, overflows.
    """
    norm = _norm(one) * _norm(other)
    return jnp.where(norm > 0, product / jnp.where(norm > 0, norm, 1), 0)


def _norm(leaves):
    squares = [jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in leaves]
    return jnp.sqrt(total(squares))
