"""Running blocks one after the other, and dropout within them."""

from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx


def make_dropout(rate: float, rngs: nnx.Rngs, **settings: Any) -> nnx.Dropout:
    """Dropout that adds no random state to a model where its rate is zero."""
    return nnx.Dropout(rate, rngs=rngs if rate else None, **settings)


def run_blocks(
    blocks: Iterable[nnx.Module], x: jax.Array, *, remat: bool = False
) -> jax.Array:
    """Applies blocks one after the other.

    With ``remat``, the backward pass computes what is inside a block once more, and
    the memory holds only what lies between blocks.
    """
    step = nnx.remat(_apply) if remat else _apply
    for block in blocks:
        x = step(block, x)
    return x


def _apply(block, x):
    return block(x)
