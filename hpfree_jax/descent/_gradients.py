"""Gradients in and updates out: what the methods of steepest descent share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from hpfree_jax._base import (
    finish_leaf,
    is_inexact,
    widen,
    widened_dtype,
    zero_update,
)
from hpfree_jax._paths import map_with_name, named_leaves
from hpfree_jax.layouts import Layout, Matrix, check_layout, infer_layout

Leaves = dict[str, Array]  # by the path of each


def check_layout_type(layout: Any) -> None:
    """Raises unless the argument ``layout`` is a Layout or None."""
    if not isinstance(layout, Layout | None):
        raise TypeError(f"`layout` must be a Layout or None, got {layout!r}.")


def layout_of(
    tree: PyTree, layout: Layout | None, *, needs_leaders: bool = True
) -> Layout:
    """The layout, checked against the tree, or the one inferred from the tree."""
    if layout is None:
        return infer_layout(tree)
    check_layout(layout, tree, needs_leaders=needs_leaders)
    return layout


class Gradients(NamedTuple):
    """The gradients that count, widened, and the dtypes of all updates."""

    leaves: Leaves  # floating-point, with a rule, and of a floating-point parameter
    dtypes: dict[str, Any]  # of the parameters, or of the gradients without these


def read_gradients(updates: PyTree, params: PyTree | None, rules: Layout) -> Gradients:
    """Reads what ``update`` was given."""
    given = {leaf.name: leaf.value for leaf in named_leaves(updates)}
    like = given | {leaf.name: leaf.value for leaf in named_leaves(params)}
    leaves = {
        name: widen(grad)
        for name, grad in given.items()
        if is_inexact(grad) and is_inexact(like[name]) and rules[name] is not None
    }
    return Gradients(leaves, {name: like[name].dtype for name in given})


def write_updates(
    new: Mapping[str, Array], updates: PyTree, dtypes: Mapping[str, Any], finite: Array
) -> PyTree:
    """The tree that ``update`` returns: zero where nothing new is given."""
    return map_with_name(
        lambda name, grad: finish_leaf(new.get(name), grad, dtypes[name], finite),
        updates,
    )


def init_average(params: PyTree, momentum: ArrayLike) -> PyTree | None:
    """Where a moving average of gradients starts; None if the momentum is off.

    An array may be a tracer under ``optax.inject_hyperparams``: only a Python 0 turns
    the memory off.
    """
    if not isinstance(momentum, jax.Array) and momentum == 0:
        return None
    return jax.tree.map(
        # The zeros of other leaves are never used; they keep the tree like params.
        lambda leaf: zero_update(
            leaf, widened_dtype(leaf) if is_inexact(leaf) else leaf.dtype
        ),
        params,
    )


def average(
    decay: Array, old: PyTree, new: Mapping[str, Array]
) -> tuple[PyTree, Leaves]:
    """The moving average, as the tree for the state and by name."""

    def moved(name, leaf):
        if name not in new:
            return leaf
        return decay * leaf + (1 - decay) * new[name].astype(leaf.dtype)

    tree = map_with_name(moved, old)
    return tree, {leaf.name: leaf.value for leaf in named_leaves(tree)}


def matrices_of(leaves: Mapping[str, Array], rules: Layout) -> Leaves:
    """Those of the leaves whose rule is a Matrix."""
    return {n: leaf for n, leaf in leaves.items() if isinstance(rules[n], Matrix)}
