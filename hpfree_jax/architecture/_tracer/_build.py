"""Grows the graph of layers while the tracer walks through a jaxpr."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

from hpfree_jax.architecture._graph import LayerKind, NodeKind, VectorRole
from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, PRODUCED, Dims, Labels
from hpfree_jax.architecture._tracer._values import (
    MIXED,
    WHOLE,
    Derived,
    Signal,
    View,
    latest_leader,
    live,
)


@dataclasses.dataclass
class RawNode:
    """A node of the growing graph; ``unmodified[i]``: ``preds[i]`` comes unmodified."""

    kind: NodeKind
    preds: tuple[int, ...]
    unmodified: tuple[bool, ...] = ()
    application: int = -1
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of the parameters: its path, shape, and whether it is floating-point."""

    path: str
    shape: tuple[int, ...]
    is_inexact: bool = True


@dataclasses.dataclass(frozen=True)
class MatrixRole:
    """What each axis of a leaf does in one application of a layer."""

    leaf: int
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    position_axes: tuple[int, ...]
    stack_axes: tuple[int, ...]
    is_factor: bool  # one of several leaves that are multiplied together
    is_last: bool  # its output axes are those of the layer


@dataclasses.dataclass(frozen=True)
class Application:
    """One use of a layer: a contraction, a convolution or a lookup."""

    node: int
    kind: LayerKind
    roles: tuple[MatrixRole, ...]  # the leaf that names the layer comes first
    fan_in: int
    fan_out: int
    kernel_size: tuple[int, ...]
    slice_key: tuple  # which slice of its leaf it uses
    num_inputs: int  # vectors that each of its matrices is applied to


@dataclasses.dataclass(frozen=True)
class VectorUse:
    """A parameter that scales or shifts a signal, or scales the weights of a layer."""

    leaf: int
    node: int
    leader: int  # an application, or -1
    role: VectorRole
    stack_axes: tuple[int, ...]
    is_offset: bool
    contracted: Labels  # axes that were contracted before
    lost: str | None


class Builder:
    """Nodes, applications of layers, and uses of vectors, in the order of execution."""

    def __init__(self, leaves: Sequence[Leaf]):
        self.leaves = tuple(leaves)
        self.nodes: list[RawNode] = []
        self.applications: list[Application] = []
        self.vector_uses: dict[VectorUse, None] = {}
        self.outputs: dict[int, None] = {}
        self.read: set[int] = set()  # leaves that an output holds as they are
        self.parts: dict[int, Parts] = {}
        self.used_whole: set[int] = set()  # nodes of which all is used, not slices
        self._unique = 0
        self._repeats = 1  # how often the code that is walked through runs
        self._unique_before_repeats = 0

    def snapshot(self) -> tuple:
        """What :meth:`restore` needs to forget everything that comes after."""
        sizes = len(self.nodes), len(self.applications)
        return *sizes, dict(self.vector_uses), set(self.used_whole)

    def restore(self, snapshot: tuple) -> None:
        """Forgets what was added since a snapshot."""
        num_nodes, num_applications, self.vector_uses, self.used_whole = snapshot
        del self.nodes[num_nodes:]
        del self.applications[num_applications:]
        self.parts = {k: v for k, v in self.parts.items() if k < num_nodes}

    def unique(self) -> int:
        """A number below 0 that was not given before."""
        self._unique -= 1
        return self._unique

    @contextlib.contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        """What is walked through once inside stands for so many repetitions."""
        before = self._repeats, self._unique_before_repeats
        if self._repeats == 1:  # else the outermost loop's
            self._unique_before_repeats = self._unique
        self._repeats *= times
        yield
        self._repeats, self._unique_before_repeats = before

    def _repeats_of(self, view: View) -> int:
        """How often one slice is used; unknown indices spread over a stack evenly."""
        picked = math.prod(
            self.leaves[view.leaf].shape[axis]
            for axis, index in view.indexed
            if index < self._unique_before_repeats
        )
        return -(-self._repeats // picked) if self._repeats != 1 else 1

    def add_node(
        self,
        kind: NodeKind,
        preds: Sequence[int] = (),
        unmodified: Sequence[bool] = (),
        **fields,
    ) -> int:
        """Adds a node and returns its number."""
        self.nodes.append(RawNode(kind, tuple(preds), tuple(unmodified), **fields))
        return len(self.nodes) - 1

    def join(self, signals: Sequence[Signal]) -> int:
        """The node of a combination of signals that is not a sum."""
        nodes = list(dict.fromkeys(signal.node for signal in signals))
        if len(nodes) == 1:
            return nodes[0]
        for signal in signals:
            self.note_use(signal)
        return self.add_node("join", nodes, [False] * len(nodes))

    def join_signals(
        self, signals: Sequence[Signal], dims: Dims, *, is_product: bool
    ) -> Signal:
        """A combination of signals that is not a sum, led by their latest leader.

        Args:
          signals: those that no derivative flows through count only where all do.
          dims: axes of the result.
          is_product: whether parts of one output are multiplied, not put together.
        """
        signals = live(signals)
        same_node = len({signal.node for signal in signals}) == 1
        return Signal(
            self.join(signals),
            dims,
            latest_leader(signals),
            self.combine_parts(signals, is_product=is_product) if same_node else WHOLE,
            blocks_gradient=all(signal.blocks_gradient for signal in signals),
        )

    def sum(self, signals: Sequence[Signal]) -> int:
        """The node of a sum of signals of different nodes."""
        for signal in signals:
            self.note_use(signal)
        return self.add_node(
            "sum",
            [signal.node for signal in signals],
            [signal.is_unmodified for signal in signals],
        )

    def note_use(self, signal: Signal) -> None:
        """Notes that another node, or the caller, uses a signal."""
        if signal.part == WHOLE:
            self.used_whole.add(signal.node)

    def parts_of(self, node: int) -> "Parts":
        """The slices that were made of a node's output."""
        return self.parts.setdefault(node, Parts())

    def combine_parts(self, signals: Sequence[Signal], *, is_product: bool) -> tuple:
        """The part of a node's output that a combination within the node holds."""
        kinds = list(dict.fromkeys(signal.part for signal in signals))
        if len(kinds) == 1:
            return kinds[0]
        if is_product or MIXED in kinds:
            return MIXED
        if WHOLE in kinds:
            return WHOLE
        parts = self.parts_of(signals[0].node)
        for other in kinds[1:]:
            parts.unite(kinds[0], other)
        return kinds[0]

    def use_vectors(self, derived: Derived, signal: Signal, role: VectorRole) -> None:
        """Records that parameters scale or shift a signal."""
        for view in derived.views:
            stack = {axis for axis, _ in view.indexed}
            if len(view.dims) == len(signal.dims):
                for mine, theirs in zip(view.dims, signal.dims, strict=True):
                    if _axes.labels_of(theirs) - PRODUCED:
                        stack |= _axes.labels_of(mine)
            linked = NO_LABELS.union(*(labels for labels, link in view.links if link))
            use = VectorUse(
                leaf=view.leaf,
                node=signal.node,
                leader=signal.leader,
                role="scale" if view.is_scale and role == "shift" else role,
                stack_axes=tuple(sorted(stack)),
                is_offset=view.is_offset,
                contracted=view.fed or linked - _axes.labels_along(view.dims),
                lost=view.lost,
            )
            self.vector_uses[use] = None

    def apply_layer(
        self,
        kind: LayerKind,
        derived: Derived,
        signals: Sequence[Signal],
        out_shape: Sequence[int],
        produced: Sequence[int],
        *,
        in_dims: Sequence[int],
        out_dims: Sequence[int],
        position_dims: Sequence[int] = (),
        stack_labels: dict[int, Labels] | None = None,
        looked_up: dict[int, Labels] | None = None,
        fan_in: int,
        fan_out: int,
        num_inputs: int,
        num_slices: dict[int, int] | None = None,
        num_groups: int = 1,
    ) -> Signal:
        """Adds a layer and returns its output.

        Args:
          kind: ``"dense"``, ``"conv"`` or ``"embedding"``.
          derived: the weights.
          signals: what they are applied to, none for constant indices.
          out_shape: shape of the output.
          produced: axes of the output that the weights produce.
          in_dims: axes of the weights summed over.
          out_dims: axes of the weights that the output keeps.
          position_dims: axes of the weights that are kernel positions.
          stack_labels: axes of each leaf that stack independent layers.
          looked_up: axes of each leaf that indices look up, for an embedding.
          fan_in: inputs summed into one unit.
          fan_out: units that one input is summed into.
          num_inputs: vectors that the weights are applied to, or rows looked up.
          num_slices: by leaf, among how many slices of a stack these are divided.
          num_groups: of a grouped convolution.
        """
        views = {view.leaf: view for view in derived.views}
        found = {
            leaf: _Found(
                in_=_axes.labels_along(view.dims, in_dims)
                | (looked_up or {}).get(leaf, NO_LABELS),
                out=_axes.labels_along(view.dims, out_dims),
                position=_axes.labels_along(view.dims, position_dims),
                stack=(stack_labels or {}).get(leaf, NO_LABELS)
                | {axis for axis, _ in view.indexed},
            )
            for leaf, view in views.items()
        }
        _resolve_links(views, found)
        matrices = _matrices(found)
        roles = tuple(self._role(views[leaf], found[leaf]) for leaf in matrices)
        main, view = roles[0], views[roles[0].leaf]
        kernel_size = tuple(
            _axes.size_of(derived.views[0].dims[dim]) for dim in position_dims
        )
        if len(roles) == 1 and not main.is_factor:
            shape = self.leaves[main.leaf].shape
            fan_out = math.prod(shape[axis] for axis in main.out_axes)
            fan_out = fan_out * math.prod(kernel_size) // num_groups
        application = Application(
            node=len(self.nodes),
            kind=kind,
            roles=roles,
            fan_in=fan_in,
            fan_out=fan_out,
            kernel_size=kernel_size,
            slice_key=(*view.indexed, *sorted(view.slices)),
            # Rounded up where the rows do not divide evenly among experts.
            num_inputs=-(-num_inputs // (num_slices or {}).get(main.leaf, 1))
            * self._repeats_of(view),
        )
        output = self._add_application(application, signals)
        others = tuple(view for leaf, view in views.items() if leaf not in matrices)
        self.use_vectors(Derived(others), output, "weight_scale")
        dims = _axes.produced(out_shape, produced)
        return dataclasses.replace(output, dims=dims, is_unmodified=True)

    def _add_application(
        self, application: Application, signals: Sequence[Signal]
    ) -> Signal:
        """The output of a new node, without its axes."""
        for signal in signals:
            self.note_use(signal)
        index = len(self.applications)
        self.applications.append(application)
        preds = list(dict.fromkeys(signal.node for signal in signals))
        node = self.add_node("layer", preds, application=index)
        return Signal(node, (), leader=index)

    def _role(self, view: View, found: "_Found") -> MatrixRole:
        """What each axis of a leaf does, or an error that names the axis."""
        leaf = self.leaves[view.leaf]
        in_axes = found.in_ | found.linked_in
        out_axes = (found.out | found.linked_out) - in_axes
        groups = [
            in_axes - found.stack,
            out_axes - found.stack,
            found.position,
            found.stack,
        ]
        for axis, size in enumerate(leaf.shape):
            count = sum(axis in group for group in groups)
            if count == 0 and size == 1:
                groups[2] |= {axis}
            elif count != 1 or axis in found.in_ & found.out:
                raise _unclear_axis(leaf, axis, view.lost, is_kept=count > 0)
        is_linked = bool(found.linked_in or found.linked_out)
        return MatrixRole(
            view.leaf,
            *(tuple(sorted(group)) for group in groups),
            is_factor=is_linked and not found.is_whole,
            is_last=bool(found.out) or not is_linked,
        )


def _unclear_axis(leaf: Leaf, axis: int, lost: str | None, *, is_kept: bool):
    """The error for an axis without a role, or with several."""
    if lost:
        what = f"passes through {lost}"
    else:
        what = "is both summed over and kept" if is_kept else "is lost on the way"
    return NotImplementedError(
        f"Axis {axis} of the parameter `{leaf.path}` of shape {leaf.shape} {what} "
        "before it is contracted with a signal, so that its role is not known. Keep "
        "the axes apart until the contraction."
    )


class Parts:
    """Slices of one output, those of which are added up counted as one."""

    def __init__(self):
        self._parent: dict[tuple, tuple] = {}

    def find(self, part: tuple) -> tuple:
        self._parent.setdefault(part, part)
        while self._parent[part] != part:
            part = self._parent[part]
        return part

    def unite(self, part: tuple, other: tuple) -> None:
        self._parent[self.find(other)] = self.find(part)

    @property
    def count(self) -> int:
        return len({self.find(part) for part in list(self._parent)})


@dataclasses.dataclass
class _Found:
    """Axes of a leaf by what they do in a contraction."""

    in_: Labels
    out: Labels
    position: Labels
    stack: Labels
    linked_in: Labels = NO_LABELS  # contracted with the leaf nearer to the input
    linked_out: Labels = NO_LABELS  # contracted with the leaf nearer to the output

    @property
    def is_whole(self) -> bool:
        """Whether the leaf alone leads from the input to the output."""
        return bool(self.in_ and self.out)

    @property
    def ends(self) -> Labels:
        """Axes that are known to be inputs or outputs."""
        return self.in_ | self.out | self.linked_in | self.linked_out


def _matrices(found: dict[int, _Found]) -> list[int]:
    """The leaves that make up the layer, the one that names it first."""
    matrices = [
        leaf
        for leaf, axes in found.items()
        if axes.is_whole or axes.linked_in or axes.linked_out
    ]
    matrices = matrices or [leaf for leaf, axes in found.items() if axes.in_]
    key = lambda leaf: (not found[leaf].is_whole, not found[leaf].in_, leaf)
    return sorted(matrices or found, key=key)


def _resolve_links(views: dict[int, View], found: dict[int, _Found]) -> None:
    """Directs contractions among leaves from the input to the output."""
    holders: dict[int, list[int]] = {}
    for leaf, view in views.items():
        axes = found[leaf]
        visible = axes.in_ | axes.out | axes.position | axes.stack
        for labels, link in view.links:
            if labels - visible:
                holders.setdefault(link, []).append(leaf)
    # From the leaves that touch the input, then from those that touch the output.
    for near, far in (("in_", "out"), ("out", "in_")):
        queue = [leaf for leaf, axes in found.items() if getattr(axes, near)]
        while queue:
            leaf = queue.pop(0)
            axes = found[leaf]
            for labels, link in views[leaf].links:
                new = labels - axes.ends - axes.position - axes.stack
                if not new:
                    continue
                _add_linked(axes, far, new)
                for other in holders.get(link, ()) if link else ():
                    if other != leaf and _follow_link(
                        views[other], found[other], link, near
                    ):
                        queue.append(other)


def _add_linked(axes: _Found, side: str, labels: Labels) -> None:
    if side == "out":
        axes.linked_out |= labels
    else:
        axes.linked_in |= labels


def _follow_link(view: View, axes: _Found, link: int, side: str) -> bool:
    """Gives the axes on the other side of a contraction their role, if it is new."""
    seen = axes.ends
    is_new = False
    for labels, other in view.links:
        if other == link and labels - seen:
            _add_linked(axes, side, labels - seen)
            is_new = True
    return is_new


def num_slices(value: Derived, axes: Sequence[int]) -> dict[int, int]:
    """By leaf, how many slices of it lie along axes of an array derived from it."""
    return {
        view.leaf: max(math.prod(_axes.known_size(view.dims[axis]) for axis in axes), 1)
        for view in value.views
    }
