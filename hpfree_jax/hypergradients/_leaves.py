"""Trees of leaves in the precision of the scalars, and back in that of params."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from hpfree_jax._base import accumulator_dtype, is_inexact, total


def all_finite(tree):
    """Whether no leaf holds a NaN or an infinity (or numbers whose sum overflows)."""
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return jnp.isfinite(total(sums))


def where(flag: Any, tree: Any, value: ArrayLike) -> Any:
    """The tree where the flag holds, or each branch where its own, else a value."""
    if isinstance(flag, dict):
        return {name: where(flag[name], branch, value) for name, branch in tree.items()}
    return jax.tree.map(lambda leaf: jnp.where(flag, leaf, value), tree)


def to_floats(tree):
    """The tree in at least the precision of scalars; MaskedNode for other leaves."""
    dtype = accumulator_dtype()
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.promote_types(leaf.dtype, dtype))
            if is_inexact(leaf)
            else optax.MaskedNode()
        ),
        tree,
    )


def as_dtype_of(new, old):
    """The new leaf in the dtype of the old one; random keys have no other."""
    return (
        new if jnp.issubdtype(old.dtype, jax.dtypes.extended) else new.astype(old.dtype)
    )


def like_params(new_updates, updates, params, is_finite):
    """The updates in the dtype of params; zero for a leaf that is not a float."""
    new_leaves = iter(jax.tree.leaves(new_updates))

    def restore(update, param):
        if is_inexact(update):
            new = next(new_leaves)
            return jnp.where(is_finite, new, 0).astype(param.dtype)
        if jnp.issubdtype(param.dtype, jnp.number) or param.dtype == bool:
            return jnp.zeros(param.shape, param.dtype)
        return update  # a random key, which has no zero

    return jax.tree.map(restore, updates, params)
