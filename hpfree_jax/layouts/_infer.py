"""Layouts read off the names and shapes of parameters, by Flax's conventions."""

import collections
import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.tree_util import DictKey
from jaxtyping import PyTree

from hpfree_jax._base import is_inexact
from hpfree_jax._paths import (
    NamedLeaf,
    Path,
    did_you_mean,
    is_under,
    left_out,
    named_leaves,
)
from hpfree_jax.layouts._layout import Layout, Matrix, Vector

_VECTORS = ("bias", "scale")

# Words in the path of a kernel of more than two axes that speak for attention, for a
# bank of experts or for stacked dense layers, and so against a convolution.
_OTHER_WORDS = {
    *("attention", "attn", "einsum", "expert", "experts", "head", "heads", "moe"),
    *("key", "kv", "out", "output", "qkv", "query", "value"),
    *("k", "o", "q", "v", "wk", "wo", "wq", "wv"),
    *("dense", "linear", "mlp"),
}


def infer_layout(
    params: PyTree, overrides: Mapping[str, Matrix | Vector | None] | None = None
) -> Layout:
    """Reads a layout off the names and shapes of parameters, by Flax's conventions.

    - A ``kernel`` has shape ``(*positions, in, out)``: dense, or convolution in one to
      three dimensions. An ``embedding``, and any other leaf of two axes, is
      ``(in, out)``; for an embedding that is ``(num_embeddings, features)``.
    - A leaf of at most one axis is a vector. Its leader is the matrix of its own
      module, else the nearest matrix before it in module order: the order of lists,
      of integer keys, of dataclass fields, and of string keys sorted with their
      numbers read as numbers (``layers_2`` before ``layers_10``), since JAX forgets
      the order in which a dict was filled.
    - Masked leaves, ``None`` and leaves that are not floating-point are left out.

    Names and shapes do not always say enough: kernels of attention, ``weight``
    leaves (PyTorch and Equinox store them ``(out, in)``), biases with several axes,
    and norms beside numbered layers (``fc1``, ``fc2``, ``norm1``) raise. Give their
    rules in ``overrides``, or read the layout from the model itself.

    Args:
      params: a pytree of arrays or of ``jax.ShapeDtypeStruct``.
      overrides: rules by path, used as they are for the leaves they name.

    Returns:
      A :class:`Layout` with a rule for each floating-point leaf.

    Raises:
      ValueError: if a leaf is ambiguous, or an override names no leaf; the message
        names the leaf, what was found and the rule to write.

    >>> import jax.numpy as jnp
    >>> infer_layout({"kernel": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16)})
    Layout({
        'bias': Vector(leader='kernel'),
        'kernel': Matrix(in_axes=(2,), out_axes=(3,), position_axes=(0, 1)),
    })
    """
    overrides = dict(overrides or {})
    leaves = [leaf for leaf in named_leaves(params) if is_inexact(leaf.value)]
    known = {leaf.name for leaf in leaves}
    for name in overrides:
        if name not in known and not is_under(name, left_out(params)):
            raise ValueError(
                f"`overrides` names `{name}`, which is no floating-point leaf of the "
                f"parameters{did_you_mean(name, known)}."
            )
    leaves = _in_module_order(leaves)
    modules = collections.defaultdict(dict)
    for leaf in leaves:
        modules[leaf.path[:-1]][_key(leaf)] = leaf
    rules: dict[str, Matrix | Vector | None] = {
        leaf.name: overrides[leaf.name]
        if leaf.name in overrides
        else _infer_matrix(leaf, modules[leaf.path[:-1]])
        for leaf in leaves
        if leaf.name in overrides or leaf.value.ndim > 1
    }
    nearest = None  # the matrix before the leaf, in module order
    for leaf in leaves:
        if leaf.name not in rules:
            own = [
                other
                for other in modules[leaf.path[:-1]].values()
                if isinstance(rules.get(other.name), Matrix)
            ]
            leader = _leader(leaf, own, nearest, leaves)
            if getattr(rules[leader.name], "stack_axes", ()):
                raise _ambiguous(leaf, f"its leader `{leader.name}` is stacked")
            rules[leaf.name] = Vector(leader.name)
        elif isinstance(rules[leaf.name], Matrix):
            nearest = leaf
    return Layout({leaf.name: rules[leaf.name] for leaf in leaves})


def _infer_matrix(leaf: NamedLeaf, module: Mapping[str, NamedLeaf]) -> Matrix:
    ndim, key = leaf.value.ndim, _key(leaf)
    if key == "weight":
        raise _ambiguous(
            leaf,
            "PyTorch and Equinox store a `weight` as (out, in, *positions), Flax and "
            "Haiku as (*positions, in, out)",
        )
    if key in _VECTORS or (ndim > 2 and key != "kernel"):
        raise _ambiguous(leaf, f"a `{key}` of several axes ({ndim}) has no convention")
    if ndim > 5:
        raise _ambiguous(leaf, f"a kernel of {ndim} axes has no convention")
    if ndim > 2 and "bias" in module and module["bias"].value.ndim != 1:
        raise _ambiguous(leaf, "its bias has several axes, so it is no convolution")
    if ndim > 2 and not _is_named_convolution(leaf) and _may_be_other(leaf):
        raise _ambiguous(
            leaf,
            f"a kernel of {ndim} axes may be attention's, a stack's or a convolution's",
        )
    return Matrix((ndim - 2,), (ndim - 1,), tuple(range(ndim - 2)))


def _is_named_convolution(leaf: NamedLeaf) -> bool:
    module = jax.tree_util.keystr(leaf.path[-2:-1], simple=True)
    return "conv" in module.lower()


def _may_be_other(leaf: NamedLeaf) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", leaf.name.rpartition("/")[0])
    return not _OTHER_WORDS.isdisjoint(word.lower() for word in words)


def _leader(leaf, own, nearest, leaves) -> NamedLeaf:
    if len(own) == 1:
        return own[0]
    if own:
        names = ", ".join(f"`{other.name}`" for other in own)
        raise _ambiguous(leaf, f"its module has several matrices: {names}")
    if nearest is None:
        raise _ambiguous(leaf, "no matrix comes before it, so it has no leader")
    _check_order_is_known(leaf, nearest, leaves)
    return nearest


def _check_order_is_known(leaf, leader, leaves):
    """Raises if only the alphabet puts the leader before the vector.

    ``fc1, fc2, norm1, norm2`` is how JAX orders the keys of a model that applies
    ``fc1, norm1, fc2, norm2``: within a family of numbered keys the order is known,
    between two families it is not.
    """
    pairs = zip(leaf.path, leader.path, strict=False)
    depth = next(depth for depth, (a, b) in enumerate(pairs) if a != b)
    prefix, key, leader_key = leaf.path[:depth], leaf.path[depth], leader.path[depth]
    if not (_is_string(key) and _is_string(leader_key)):
        return
    siblings = {
        other.path[depth].key for other in leaves if other.path[:depth] == prefix
    }
    families = collections.Counter(map(_stem, siblings))
    stem, leader_stem = _stem(key.key), _stem(leader_key.key)
    if stem != leader_stem and max(families[stem], families[leader_stem]) > 1:
        raise _ambiguous(
            leaf,
            f"JAX sorts the keys {sorted(siblings)} by name, so which matrix feeds "
            "it is not known",
        )


def _ambiguous(leaf: NamedLeaf, why: str) -> ValueError:
    is_vector = leaf.value.ndim < 2 or _key(leaf) in _VECTORS
    rule = "hp.Vector(leader=...)" if is_vector else "hp.Matrix(in_axes=..., ...)"
    return ValueError(
        f"The role of the parameter `{leaf.name}` of shape {leaf.value.shape} is "
        f"ambiguous: {why}. Say it: "
        f"layout=hp.infer_layout(params, overrides={{{leaf.name!r}: {rule}}})."
    )


def _key(leaf: NamedLeaf) -> str:
    return jax.tree_util.keystr(leaf.path[-1:], simple=True)


def _in_module_order(leaves: list[NamedLeaf]) -> list[NamedLeaf]:
    # Sequences and fields keep the place that JAX gives them; string keys are compared
    # with their numbers read as numbers.
    places: dict[Path, int] = {}
    counter = itertools.count()

    def order(leaf):
        return tuple(
            _natural(entry.key)
            if _is_string(entry)
            else (places.setdefault(leaf.path[:depth], next(counter)),)
            for depth, entry in enumerate(leaf.path, start=1)
        )

    return sorted(leaves, key=order)


def _natural(key: str) -> tuple[str | int, ...]:
    parts = re.split(r"(\d+)", key)  # text and digits alternate, text first
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _stem(key: str) -> str:
    return re.sub(r"\d+$", "", key)


def _is_string(entry: Any) -> bool:
    return isinstance(entry, DictKey) and isinstance(entry.key, str)
