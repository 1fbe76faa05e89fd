"""Layouts: which axes of each parameter are fan-in, fan-out, positions or stacks."""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from jax.tree_util import DictKey, GetAttrKey
from jaxtyping import PyTree

from hpfree_jax._base import is_inexact

Path: TypeAlias = tuple[Any, ...]  # the keys from the root of a pytree to a leaf


@dataclasses.dataclass(frozen=True)
class Matrix:
    r"""The rule of a leaf that holds one or more weight matrices.

    Every axis of the leaf belongs to exactly one of the four groups of axes.

    Attributes:
      in_axes: axes summed over when the layer is applied; their sizes multiply to
        the fan-in per position, :math:`d_{in}`.
      out_axes: axes of the layer's output; their sizes multiply to :math:`d_{out}`.
      position_axes: spatial axes of a kernel; their sizes multiply to :math:`K`.
      stack_axes: axes along which independent layers are stacked, as by
        ``nnx.scan``; each slice counts as a layer of its own.
      scale_divisor: :math:`m`, divides the squared scale
        :math:`s^2 = d_{out} / (m\, d_{in} K)`. The number of projections fused along
        ``out_axes``, or of blocks that write to the same residual stream.
      depth_count: :math:`n`, how many layers the leaf counts for, per slice.
    """

    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    position_axes: tuple[int, ...] = ()
    stack_axes: tuple[int, ...] = ()
    scale_divisor: float = 1
    depth_count: int = 1

    def __post_init__(self):
        for field in ("in_axes", "out_axes", "position_axes", "stack_axes"):
            _set_axes(self, field)
        if not (math.isfinite(self.scale_divisor) and self.scale_divisor > 0):
            raise ValueError(
                f"`scale_divisor` must be positive, got {self.scale_divisor}."
            )
        if self.depth_count < 0 or self.depth_count != int(self.depth_count):
            raise ValueError(
                f"`depth_count` must be an integer of at least 0, got "
                f"{self.depth_count}."
            )

    def fans(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns (:math:`d_{in}`, :math:`d_{out}`, :math:`K`) of a leaf's shape."""
        return tuple(  # type: ignore[return-value]
            math.prod(shape[axis] for axis in axes)
            for axes in (self.in_axes, self.out_axes, self.position_axes)
        )

    def num_slices(self, shape: tuple[int, ...]) -> int:
        """Returns how many independent layers are stacked in a leaf."""
        return math.prod(shape[axis] for axis in self.stack_axes)

    def scale(self, shape: tuple[int, ...]) -> float:
        r"""Returns :math:`s = \sqrt{d_{out} / (m\, d_{in})} / \sqrt{K}`."""
        d_in, d_out, num_positions = self.fans(shape)
        if 0 in shape:  # an empty leaf has no scale, and nothing that would use it
            return 0.0
        return math.sqrt(d_out / (self.scale_divisor * d_in) / num_positions)


@dataclasses.dataclass(frozen=True)
class Vector:
    """The rule of a bias, or of the scale or shift of a normalisation.

    Attributes:
      leader: the path of the matrix leaf whose scale and gradient norm it moves with.
      stack_axes: axes of this leaf along which layers are stacked, as many and of the
        same sizes as the leader's ``stack_axes``.
    """

    leader: str
    stack_axes: tuple[int, ...] = ()

    def __post_init__(self):
        _set_axes(self, "stack_axes")


class Layout(Mapping[str, Matrix | Vector | None]):
    r"""What each parameter is: a mapping from a leaf's path to its rule.

    A path is the keys from the root to the leaf, joined by ``/``:
    ``"layers/0/kernel"``. A rule is a :class:`Matrix`, a :class:`Vector`, or None for
    a leaf that is left alone: it never moves and counts nowhere.

    Layouts are plain immutable Python. They print as the code that makes them, are
    equal when their rules are, can be hashed, and are edited with ``|``:

    >>> layout = Layout({
    ...     "qkv/kernel": Matrix(in_axes=0, out_axes=1),
    ...     "qkv/bias": Vector(leader="qkv/kernel"),
    ... })
    >>> fused = dataclasses.replace(
    ...     layout["qkv/kernel"], scale_divisor=3, depth_count=3
    ... )
    >>> print(layout | {"qkv/kernel": fused, "temperature": None})
    Layout({
        'qkv/kernel': Matrix(in_axes=(0,), out_axes=(1,), scale_divisor=3,
                             depth_count=3),
        'qkv/bias': Vector(leader='qkv/kernel'),
        'temperature': None,
    })
    """

    def __init__(self, rules: Mapping[str, Matrix | Vector | None] | None = None):
        self._rules = dict(rules or {})
        for path, rule in self._rules.items():
            if not isinstance(path, str):
                raise TypeError(f"A path of a layout must be a string, got {path!r}.")
            if not isinstance(rule, Matrix | Vector | None):
                raise TypeError(
                    f"The rule of `{path}` must be a Matrix, a Vector or None, "
                    f"got {rule!r}."
                )
        for path, rule in self._rules.items():
            if isinstance(rule, Vector):
                self._check_leader(path, rule)

    def _check_leader(self, path: str, rule: Vector) -> None:
        if rule.leader not in self._rules:
            raise ValueError(
                f"The leader of `{path}` is `{rule.leader}`, which the layout does not "
                f"have{_did_you_mean(rule.leader, self.matrices)}."
            )
        leader = self._rules[rule.leader]
        if not isinstance(leader, Matrix):
            raise ValueError(
                f"The leader of `{path}` must be a Matrix, but `{rule.leader}` is "
                f"{leader!r}."
            )
        if len(rule.stack_axes) != len(leader.stack_axes):
            raise ValueError(
                f"`{path}` has {len(rule.stack_axes)} stack axes but its leader "
                f"`{rule.leader}` has {len(leader.stack_axes)}: give both the same "
                "number, so that each slice of the vector follows its own matrix."
            )

    @property
    def matrices(self) -> dict[str, Matrix]:
        """The rules of the weight matrices, by path."""
        return {p: r for p, r in self._rules.items() if isinstance(r, Matrix)}

    @property
    def vectors(self) -> dict[str, Vector]:
        """The rules of the vectors, by path."""
        return {p: r for p, r in self._rules.items() if isinstance(r, Vector)}

    def __getitem__(self, path: str) -> Matrix | Vector | None:
        return self._rules[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __or__(self, edits: Mapping[str, Matrix | Vector | None]) -> "Layout":
        return Layout(self._rules | dict(edits))

    def __hash__(self) -> int:
        return hash(frozenset(self._rules.items()))

    def __repr__(self) -> str:
        if not self._rules:
            return "Layout({})"
        lines = (f"    {p!r}: {_short_repr(r)},\n" for p, r in self._rules.items())
        return "Layout({\n" + "".join(lines) + "})"


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
    known = {leaf.name for leaf in leaves} | masked_names(params)
    for name in overrides:
        if name not in known:
            raise ValueError(
                f"`overrides` names `{name}`, which is no floating-point leaf of the "
                f"parameters{_did_you_mean(name, known)}."
            )
    ordered = _in_module_order(leaves)
    rules: dict[str, Matrix | Vector | None] = {
        name: overrides[name]
        for name in (leaf.name for leaf in ordered)
        if name in overrides
    }
    for leaf in ordered:
        if leaf.name not in rules and leaf.value.ndim > 1:
            rules[leaf.name] = _infer_matrix(leaf, ordered)
    for index, leaf in enumerate(ordered):
        if leaf.name not in rules:
            rules[leaf.name] = _infer_vector(index, ordered, rules)
    return Layout({leaf.name: rules[leaf.name] for leaf in ordered})


def check_layout(layout: Layout, params: PyTree) -> None:
    """Raises unless the layout has a fitting rule for each floating-point leaf.

    Rules of masked leaves are welcome; a tree without any leaf fits every layout
    (optax initialises transformations on placeholders).
    """
    leaves = {leaf.name: leaf.value for leaf in named_leaves(params)}
    masked = masked_names(params)
    if not leaves:
        return
    for name in layout:
        if name not in leaves and name not in masked:
            raise ValueError(
                f"The layout has a rule for `{name}`, which the parameters do not "
                f"have{_did_you_mean(name, leaves)}."
            )
    for name, leaf in leaves.items():
        if not is_inexact(leaf):
            continue
        if name not in layout:
            raise ValueError(
                f"The layout has no rule for the parameter `{name}` of shape "
                f"{leaf.shape}{_did_you_mean(name, layout)}. Add one, or None to "
                "leave it alone."
            )
        rule = layout[name]
        if isinstance(rule, Matrix):
            axes = (
                *rule.in_axes,
                *rule.out_axes,
                *rule.position_axes,
                *rule.stack_axes,
            )
            if sorted(axes) != list(range(leaf.ndim)):
                raise ValueError(
                    f"The rule of `{name}` must give each of the {leaf.ndim} axes of "
                    f"its shape {leaf.shape} exactly one role, got {rule}."
                )
        elif isinstance(rule, Vector):
            _check_vector(name, rule, leaf, layout, leaves)


def _check_vector(name, rule, leaf, layout, leaves):
    if rule.leader not in leaves:
        raise ValueError(
            f"`{name}` follows `{rule.leader}`, which is masked out, so that its "
            f"gradient is not at hand. Give `{name}` another leader, or mask it too."
        )
    if any(axis >= leaf.ndim for axis in rule.stack_axes):
        raise ValueError(
            f"The rule of `{name}` has the stack axes {rule.stack_axes}, but its shape "
            f"is {leaf.shape}."
        )
    leader_shape = leaves[rule.leader].shape
    stack = tuple(leader_shape[axis] for axis in layout[rule.leader].stack_axes)
    found = tuple(leaf.shape[axis] for axis in rule.stack_axes)
    if found != stack:
        raise ValueError(
            f"`{name}` stacks {found} layers but its leader `{rule.leader}` stacks "
            f"{stack}."
        )


class NamedLeaf(NamedTuple):
    """A leaf of a pytree, its path, and the path as one string."""

    name: str
    path: Path
    value: Any


def named_leaves(tree: PyTree) -> list[NamedLeaf]:
    """Returns the leaves of a pytree with their names, in JAX's order."""
    return [
        NamedLeaf(path_name(path), path, leaf)
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


def _without_value(path: Path) -> Path:
    return path[:-1] if len(path) > 1 and path[-1] == GetAttrKey("value") else path


_VECTORS = ("bias", "scale")

# Words in the path of a kernel of three axes that make attention or a bank of experts
# more likely than a 1-D convolution.
_ATTENTION_WORDS = {
    *("attention", "attn", "einsum", "expert", "experts", "head", "heads", "moe"),
    *("key", "kv", "out", "output", "qkv", "query", "value"),
    *("k", "o", "q", "v", "wk", "wo", "wq", "wv"),
}


def _infer_matrix(leaf: NamedLeaf, leaves: list[NamedLeaf]) -> Matrix:
    ndim = leaf.value.ndim
    module, key = _module_and_key(leaf.path)
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
    if ndim > 2:
        biases = [
            other.value.ndim
            for other in leaves
            if _module_and_key(other.path) == (module, "bias")
        ]
        words = {
            word
            for part in leaf.name.lower().split("/")[:-1]
            for word in (part, re.sub(r"[_\d]*$", "", part), *re.split(r"[_\d]+", part))
        }
        if any(n != 1 for n in biases):
            raise _ambiguous(leaf, "its bias has several axes, so it is no convolution")
        is_named_conv = "conv" in leaf.name.lower()
        if ndim == 3 and words & _ATTENTION_WORDS and not is_named_conv:
            raise _ambiguous(
                leaf, "a kernel of 3 axes may be attention's or a 1-D convolution's"
            )
    return Matrix((ndim - 2,), (ndim - 1,), tuple(range(ndim - 2)))


def _infer_vector(index, ordered, rules) -> Vector:
    leaf = ordered[index]
    module, _ = _module_and_key(leaf.path)
    matrices = [other for other in ordered if isinstance(rules.get(other.name), Matrix)]
    own = [other for other in matrices if _module_and_key(other.path)[0] == module]
    before = [other for other in ordered[:index] if other in matrices]
    if len(own) > 1:
        names = ", ".join(f"`{other.name}`" for other in own)
        raise _ambiguous(leaf, f"its module has several matrices: {names}")
    if not own and not before:
        raise _ambiguous(leaf, "no matrix comes before it, so it has no leader")
    leader = own[0] if own else before[-1]
    if not own:
        _check_order_is_known(leaf, leader, ordered)
    if rules[leader.name].stack_axes:
        raise _ambiguous(leaf, f"its leader `{leader.name}` is stacked")
    return Vector(leader.name)


def _check_order_is_known(leaf, leader, leaves):
    """Raises if only the alphabet puts the leader before the vector.

    ``fc1, fc2, norm1, norm2`` is how JAX orders the keys of a model that applies
    ``fc1, norm1, fc2, norm2``: within a family of numbered keys the order is known,
    between two families it is not.
    """
    prefix, key, leader_key = _first_difference(leaf.path, leader.path)
    if not (_is_string(key) and _is_string(leader_key)):
        return
    siblings = {
        other.path[len(prefix)].key
        for other in leaves
        if other.path[: len(prefix)] == prefix and len(other.path) > len(prefix)
    }
    stem, leader_stem = _stem(key.key), _stem(leader_key.key)
    stems = [_stem(sibling) for sibling in siblings]
    if stem != leader_stem and max(stems.count(stem), stems.count(leader_stem)) > 1:
        raise _ambiguous(
            leaf,
            f"JAX sorts the keys {sorted(siblings)} by name, so which matrix feeds "
            "it cannot be told",
        )


def _ambiguous(leaf: NamedLeaf, why: str) -> ValueError:
    is_vector = leaf.value.ndim < 2 or _module_and_key(leaf.path)[1] in _VECTORS
    rule = "hp.Vector(leader=...)" if is_vector else "hp.Matrix(in_axes=..., ...)"
    return ValueError(
        f"The role of the parameter `{leaf.name}` of shape {leaf.value.shape} is "
        f"ambiguous: {why}. Say it: "
        f"layout=hp.infer_layout(params, overrides={{{leaf.name!r}: {rule}}})."
    )


def _module_and_key(path: Path) -> tuple[Path, str]:
    path = _without_value(path)
    return path[:-1], jax.tree_util.keystr(path[-1:], simple=True)


def _in_module_order(leaves: list[NamedLeaf]) -> list[NamedLeaf]:
    # Sequences and fields keep the place that JAX gives them; string keys are compared
    # with their numbers read as numbers.
    places: dict[Path, int] = {}
    counter = itertools.count()

    def order(leaf):
        key = []
        for depth, entry in enumerate(leaf.path, start=1):
            if _is_string(entry):
                key.append(_natural(entry.key))
            else:
                prefix = leaf.path[:depth]
                key.append((places.setdefault(prefix, next(counter)),))
        return tuple(key)

    return sorted(leaves, key=order)


def _natural(key: str) -> tuple[str | int, ...]:
    parts = re.split(r"(\d+)", key)  # text and digits alternate, text first
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _stem(key: Any) -> str:
    return re.sub(r"\d+$", "", str(key))


def _is_string(entry: Any) -> bool:
    return isinstance(entry, DictKey) and isinstance(entry.key, str)


def _first_difference(path, other):
    depth = next(i for i, (a, b) in enumerate(zip(path, other)) if a != b)  # noqa: B905
    return path[:depth], path[depth], other[depth]


def _did_you_mean(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _set_axes(rule: Any, field: str) -> None:
    axes = getattr(rule, field)
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if any(axis < 0 for axis in axes):
        raise ValueError(
            f"`{field}` must be counted from the front, from 0 on, got {axes}."
        )
    if field == "stack_axes" and axes != tuple(sorted(axes)):
        raise ValueError(f"`stack_axes` must ascend, got {axes}.")
    object.__setattr__(rule, field, axes)


def _short_repr(rule: Matrix | Vector | None) -> str:
    if rule is None:
        return "None"
    shown = ", ".join(
        f"{field.name}={getattr(rule, field.name)!r}"
        for field in dataclasses.fields(rule)
        if field.default is dataclasses.MISSING
        or getattr(rule, field.name) != field.default
    )
    return f"{type(rule).__name__}({shown})"
