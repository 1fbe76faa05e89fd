"""Layouts: which axes of each parameter are fan-in, fan-out, positions or stacks."""

import dataclasses
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import PyTree

from hpfree_jax._base import is_inexact
from hpfree_jax._paths import did_you_mean, is_under, left_out, named_leaves

Axes: TypeAlias = int | Sequence[int]  # as given; read back, always a tuple


@dataclasses.dataclass(frozen=True, init=False)
class Matrix:
    r"""The rule of a leaf that holds one or more weight matrices.

    Every axis of the leaf belongs to exactly one of the four groups of axes. A group is
    given as an integer or a sequence of them, and read as a tuple.

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

    def __init__(
        self,
        in_axes: Axes,
        out_axes: Axes,
        position_axes: Axes = (),
        stack_axes: Axes = (),
        scale_divisor: float = 1,
        depth_count: int = 1,
    ):
        _set_fields(
            self,
            in_axes=_axes("in_axes", in_axes),
            out_axes=_axes("out_axes", out_axes),
            position_axes=_axes("position_axes", position_axes),
            stack_axes=_ascending("stack_axes", stack_axes),
            scale_divisor=scale_divisor,
            depth_count=depth_count,
        )
        if not (math.isfinite(scale_divisor) and scale_divisor > 0):
            raise ValueError(f"`scale_divisor` must be positive, got {scale_divisor}.")
        if not (isinstance(depth_count, int) and depth_count >= 0):
            raise ValueError(
                f"`depth_count` must be an integer of at least 0, got {depth_count}."
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


@dataclasses.dataclass(frozen=True, init=False)
class Vector:
    """The rule of a bias, or of the scale or shift of a normalisation.

    Attributes:
      leader: the path of the matrix leaf whose scale and gradient norm it moves with.
      stack_axes: axes of this leaf along which layers are stacked, as many and of the
        same sizes as the leader's ``stack_axes``; given as an integer or a sequence,
        read as a tuple.
    """

    leader: str
    stack_axes: tuple[int, ...] = ()

    def __init__(self, leader: str, stack_axes: Axes = ()):
        _set_fields(
            self, leader=leader, stack_axes=_ascending("stack_axes", stack_axes)
        )


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
    ...     layout.matrices["qkv/kernel"], scale_divisor=3, depth_count=3
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
                f"have{did_you_mean(rule.leader, self.matrices)}."
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


def check_layout(layout: Layout, params: PyTree, *, needs_leaders: bool = True) -> None:
    """Raises unless the layout has a fitting rule for each floating-point leaf.

    Rules of leaves that are masked out or None are welcome; a tree without any leaf
    fits every layout (optax initialises transformations on placeholders). Where the
    gradients of leaders are used, the leader of each vector must be there, too.
    """
    leaves = {leaf.name: leaf.value for leaf in named_leaves(params)}
    gaps = left_out(params)
    if not leaves:
        return
    for name in layout:
        if name not in leaves and not is_under(name, gaps):
            raise ValueError(
                f"The layout has a rule for `{name}`, which the parameters do not "
                f"have{did_you_mean(name, leaves)}."
            )
    for name, leaf in leaves.items():
        if not is_inexact(leaf):
            continue
        if name not in layout:
            raise ValueError(
                f"The layout has no rule for the parameter `{name}` of shape "
                f"{leaf.shape}{did_you_mean(name, layout)}. Add one, or None to "
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
            _check_vector(name, rule, leaf, layout, leaves, needs_leaders)


def _check_vector(name, rule, leaf, layout, leaves, needs_leaders):
    if rule.leader not in leaves and needs_leaders:
        raise ValueError(
            f"`{name}` follows `{rule.leader}`, which is masked out or None, so that "
            f"its gradient is missing. Give `{name}` another leader, or mask it "
            "too."
        )
    if any(axis >= leaf.ndim for axis in rule.stack_axes):
        raise ValueError(
            f"The rule of `{name}` has the stack axes {rule.stack_axes}, but its shape "
            f"is {leaf.shape}."
        )
    if rule.leader not in leaves:
        return
    leader_shape = leaves[rule.leader].shape
    stack = tuple(leader_shape[axis] for axis in layout[rule.leader].stack_axes)
    found = tuple(leaf.shape[axis] for axis in rule.stack_axes)
    if found != stack:
        raise ValueError(
            f"`{name}` stacks {found} layers but its leader `{rule.leader}` stacks "
            f"{stack}."
        )


def _set_fields(rule: Any, **fields: Any) -> None:
    for field, value in fields.items():
        object.__setattr__(rule, field, value)  # the rule is frozen


def _axes(field: str, given: Any) -> tuple[int, ...]:
    try:
        axes = tuple(map(operator.index, given if np.iterable(given) else (given,)))
    except TypeError as error:
        raise TypeError(f"`{field}` must be integers, got {given!r}.") from error
    if any(axis < 0 for axis in axes):
        raise ValueError(
            f"`{field}` must be counted from the front, from 0 on, got {axes}."
        )
    return axes


def _ascending(field: str, given: Any) -> tuple[int, ...]:
    axes = _axes(field, given)
    if axes != tuple(sorted(axes)):
        raise ValueError(f"`{field}` must ascend, got {axes}.")
    return axes


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
