"""Trees of leaves in the precision of the scalars."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from hpfree_jax._base import is_inexact, widen


def where(flag: Any, tree: Any, value: ArrayLike) -> Any:
    """The tree where the flag holds, or each branch where its own, else a value."""
    if isinstance(flag, dict):
        return {name: where(flag[name], branch, value) for name, branch in tree.items()}
    return jax.tree.map(lambda leaf: jnp.where(flag, leaf, value), tree)


def to_floats(tree):
    """The tree in at least the precision of scalars; MaskedNode for other leaves."""
    return jax.tree.map(
        lambda leaf: widen(leaf) if is_inexact(leaf) else optax.MaskedNode(), tree
    )


def as_dtype_of(new, old):
    """The new leaf in the dtype of the old one; random keys have no other."""
    return (
        new if jnp.issubdtype(old.dtype, jax.dtypes.extended) else new.astype(old.dtype)
    )
