"""Names of the leaves of a pytree."""

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from jax.tree_util import GetAttrKey
from jaxtyping import PyTree

Path: TypeAlias = tuple[Any, ...]  # the keys from the root of a pytree to a leaf


class NamedLeaf(NamedTuple):
    """A leaf of a pytree, the keys of its path, and the path as one string."""

    name: str
    path: Path
    value: Any


def named_leaves(tree: PyTree) -> list[NamedLeaf]:
    """Returns the leaves of a pytree with their names, in JAX's order."""
    return [
        NamedLeaf(path_name(path), _without_value(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def masked_names(tree: PyTree) -> set[str]:
    """Returns the names of the leaves that :func:`optax.masked` has masked out."""
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)[0]
    return {path_name(path) for path, leaf in paths if is_masked(leaf)}


def path_name(path: Path) -> str:
    """Joins the keys of a path by ``/``, without the ``.value`` of a Flax variable."""
    return jax.tree_util.keystr(_without_value(path), simple=True, separator="/")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a hint for an error message, empty if no name is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _without_value(path: Path) -> Path:
    return path[:-1] if len(path) > 1 and path[-1] == GetAttrKey("value") else path
