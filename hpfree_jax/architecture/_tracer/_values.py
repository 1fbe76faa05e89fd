"""What the tracer knows of an intermediate: a constant, derived, or a signal."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims, Labels

# Which part of its node's output a signal holds: all of it, a slice (a tuple that names
# it), or products of different slices.
WHOLE: Final = ("whole",)
MIXED: Final = ("mixed",)
Part = tuple


@dataclasses.dataclass(frozen=True, slots=True)
class Const:
    """A value that depends on neither parameters nor inputs.

    Attributes:
      value: of an integer scalar, where it is known: loop counters and indices.
      is_iota: whether it enumerates positions, as in a one-hot encoding.
    """

    value: int | None = None
    is_iota: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """How one leaf of the parameters enters a parameter-derived array.

    Attributes:
      leaf: its index.
      dims: where the axes of the array come from; labels are axes of the leaf.
      indexed: axes of which one index was picked: (axis, index or a unique number
        below 0).
      slices: parts of axes that were picked: (axis, start, size).
      links: axes that were contracted away, with the number of the contraction: the
        same one on both sides, or 0 for a contraction with a constant.
      fed: axes that were contracted with a constant.
      is_offset: whether a constant was added, as in ``1 + scale``.
      is_scale: whether it multiplied another parameter, of as many axes or more.
      lost: the operation behind which the axes cannot be followed, or None.
    """

    leaf: int
    dims: Dims
    indexed: tuple[tuple[int, int], ...] = ()
    slices: tuple[tuple[int, int, int], ...] = ()
    links: tuple[tuple[Labels, int], ...] = ()
    fed: Labels = NO_LABELS
    is_offset: bool = False
    is_scale: bool = False
    lost: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Derived:
    """An array computed from parameters and constants alone.

    Attributes:
      views: one for each leaf that it depends on, in the order of the leaves.
      lookup: axes that constant indices looked up, as in positional embeddings.
    """

    views: tuple[View, ...]
    lookup: Labels = NO_LABELS


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """An array that depends on an input.

    Attributes:
      node: the node of the graph that it belongs to.
      dims: which of its axes the leader produced (OUT) or stacks (the leaf's axis).
      leader: the application of a layer, the latest upstream, or -1.
      part: which part of the node's output it holds.
      blocks_gradient: no derivative flows through it: comparisons, one-hot encodings.
      is_one_hot: an index compared with an enumeration.
      is_unmodified: the node's output up to scaling, shifting and reshaping, so that
        summing it once more continues the same sum.
    """

    node: int
    dims: Dims
    leader: int = -1
    part: Part = WHOLE
    blocks_gradient: bool = False
    is_one_hot: bool = False
    is_unmodified: bool = False


Value = Const | Derived | Signal


def are(values: Iterable[Value], *kinds: type) -> bool:
    """Whether all values are of these kinds."""
    return all(isinstance(value, kinds) for value in values)


def signals_in(values: Iterable[Value]) -> list[Signal]:
    """Those that depend on an input."""
    return [value for value in values if isinstance(value, Signal)]


def derived_in(values: Iterable[Value]) -> list[Derived]:
    """Those that depend on parameters, but on no input."""
    return [value for value in values if isinstance(value, Derived)]


def live(signals: Sequence[Signal]) -> list[Signal]:
    """The signals that derivatives flow through; all of them if there is none."""
    return [signal for signal in signals if not signal.blocks_gradient] or list(signals)


def latest_leader(signals: Iterable[Signal]) -> int:
    """The latest application of a layer upstream of the signals, or -1."""
    return max(signal.leader for signal in signals)


def latest_dims(pairs: Iterable[tuple[Signal, Dims]], shape: Sequence[int]) -> Dims:
    """The axes of a combination: those of the signals of the latest leader, merged.

    Args:
      pairs: signals, each with its axes at their places in the result.
      shape: of the result; axes of another rank are left out.
    """
    pairs = list(pairs)
    leader = latest_leader(signal for signal, _ in pairs)
    dims = _axes.plain(shape)
    for signal, own in pairs:
        if signal.leader == leader and len(own) == len(shape):
            dims = _axes.merge(dims, own)
    return dims


def replace_views(value: Derived, change: Callable[[View], View]) -> Derived:
    """The same array, each of its views changed."""
    return dataclasses.replace(value, views=tuple(map(change, value.views)))


def labels_by_leaf(value: Derived, axes: Sequence[int]) -> dict[int, Labels]:
    """By leaf, its axes that some axes of an array derived from it hold a part of."""
    return {view.leaf: _axes.labels_along(view.dims, axes) for view in value.views}


def unite(views: list[View]) -> tuple[View, ...]:
    """Views of an elementwise combination of parameter-derived arrays."""
    united: dict[int, View] = {}
    for view in views:
        other = united.get(view.leaf)
        united[view.leaf] = view if other is None else _unite(other, view)
    return tuple(united[leaf] for leaf in sorted(united))


def _unite(a: View, b: View) -> View:
    if a == b:
        return a
    # A norm of the leaf beside the leaf itself: what one still knows, counts.
    known = [view for view in (a, b) if view.lost is None]
    dims = _axes.merge(a.dims, b.dims)
    visible = _axes.labels_along(dims)
    return View(
        leaf=a.leaf,
        dims=dims,
        indexed=_unite_picks(a.indexed, b.indexed, visible),
        slices=_unite_picks(a.slices, b.slices, visible),
        links=_union(a.links, b.links),
        fed=a.fed | b.fed,
        is_offset=a.is_offset or b.is_offset,
        is_scale=a.is_scale and b.is_scale,
        lost=None if known else a.lost,
    )


def _unite_picks(a: tuple, b: tuple, visible: Labels) -> tuple:
    """Slices that both took, and those of axes that neither shows any more."""
    common = [entry for entry in a if entry in b]
    return tuple(
        entry for entry in _union(a, b) if entry in common or entry[0] not in visible
    )


def _union(a: tuple, b: tuple) -> tuple:
    return a + tuple(entry for entry in b if entry not in a)
