"""Names of the leaves of a pytree."""

import collections
import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from jaxtyping import PyTree

Path: TypeAlias = tuple[Any, ...]  # the keys from the root of a pytree to a leaf


class NamedLeaf(NamedTuple):
    """A leaf of a pytree, the keys of its path, and the path as one string."""

    name: str
    path: Path
    value: Any


def named_leaves(tree: PyTree) -> list[NamedLeaf]:
    """Returns the leaves of a pytree with their names, in JAX's order.

    A name is the keys joined by ``/``. The one leaf of a Flax variable has the name of
    the variable, without ``.value``.

    Raises:
      ValueError: if two leaves have the same name.
    """
    boxes = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_flax_variable)[0]
    leaves = [
        NamedLeaf(_join(path), path, leaf)
        for path, box in boxes
        for leaf in (jax.tree.leaves(box) if _is_flax_variable(box) else [box])
    ]
    counts = collections.Counter(leaf.name for leaf in leaves)
    for leaf in leaves:
        if counts[leaf.name] > 1:
            raise ValueError(
                f"{counts[leaf.name]} leaves of the tree have the name `{leaf.name}`. "
                "Rename a key so that names are unique (keys are joined by `/`)."
            )
    return leaves


def map_with_name(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Returns the tree of ``fn(name, leaf)``."""
    leaves = [fn(leaf.name, leaf.value) for leaf in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def left_out(tree: PyTree) -> tuple[str, ...]:
    """Returns the names of what is None or masked out; of whole branches, too."""
    is_gap = lambda node: node is None or isinstance(node, optax.MaskedNode)
    nodes = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_gap)[0]
    return tuple(_join(path) for path, node in nodes if is_gap(node))


def is_under(name: str, branches: Iterable[str]) -> bool:
    """Whether a leaf is one of the branches, or lies on one."""
    return any(name == b or not b or name.startswith(f"{b}/") for b in branches)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a hint for an error message, empty if no name is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _join(path: Path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_flax_variable(node: Any) -> bool:
    # By name: the core does not import Flax.
    return any(
        cls.__name__ in ("Variable", "AxisMetadata") and cls.__module__[:5] == "flax."
        for cls in type(node).__mro__
    )
