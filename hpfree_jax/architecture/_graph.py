"""The traced graph: plain, frozen, hashable Python, and its path statistics."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Literal

LayerKind = Literal["dense", "conv", "embedding"]
VectorRole = Literal["scale", "shift", "weight_scale"]
NodeKind = Literal["input", "layer", "sum", "join"]


@dataclasses.dataclass(frozen=True)
class LeafAxes:
    """What the axes of one leaf of a layer do; see :class:`hpfree_jax.Matrix`.

    Attributes:
      path: path of the leaf in the parameters.
      in_axes: axes that are summed over.
      out_axes: axes that are kept in the output.
      position_axes: spatial axes of a kernel.
      stack_axes: axes along which independent layers are stacked.
      is_factor: whether it is one of several leaves multiplied together, as the two
        of a low-rank product.
      is_last: whether its output axes are those of the layer.
    """

    path: str
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    position_axes: tuple[int, ...] = ()
    stack_axes: tuple[int, ...] = ()
    is_factor: bool = False
    is_last: bool = True


@dataclasses.dataclass(frozen=True)
class Layer:
    r"""A weight that is contracted with signals, with all its uses.

    Attributes:
      path: path of its leaf in the parameters; the first of :attr:`leaves`.
      kind: kind of its first use: ``"dense"``, ``"conv"`` or ``"embedding"`` (a lookup,
        or a product with a one-hot encoding).
      fan_in: inputs summed into one unit: the kernel window included, divided by the
        groups of a convolution; for an embedding the number of rows.
      fan_out: units that one input is summed into.
      kernel_size: one number for each spatial axis of a convolution, else empty.
      in_axes: axes of the leaf that are summed over.
      out_axes: axes of the leaf that the output keeps.
      position_axes: spatial axes of the leaf.
      stack_axes: axes of the leaf along which independent layers are stacked.
      in_degree: branches of the sum that its output goes to and nowhere else, skips
        included; 1 for every other layer. The largest among its uses.
      source_in_degree: branches of the sum that feeds it, else 1.
      uses: how often each of its weights is applied: 2 for a tied embedding, the
        number of steps for a recurrent layer, 1 for each slice of a stack.
      leaves: all leaves it is made of, with the roles of their axes: three for a
        low-rank adaptation ``W + A @ B``.
      readout_fan_in: its fan-in where it produces an output of the model, else 0.
      splits: the number of parts, used separately, that its output is split into: 3 for
        a fused projection to queries, keys and values.
      residual_blocks: the number of blocks that add to a residual stream, for a layer
        whose output is added to one; else 1.
      num_inputs: the number of input vectors that each of its matrices is applied to
        in the traced batch, over all its uses: examples times output positions, or the
        rows that are looked up. For a stack, that of the slice with the most. The
        forward pass of a product takes ``2 * fan_in * n * num_inputs`` operations for
        each slice, where ``n`` is the product of the sizes of :attr:`out_axes`. 0 if it
        is not known, for a layer made by hand.
    """

    path: str
    kind: LayerKind
    fan_in: int
    fan_out: int
    kernel_size: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    position_axes: tuple[int, ...]
    stack_axes: tuple[int, ...]
    in_degree: int
    source_in_degree: int
    uses: int
    leaves: tuple[LeafAxes, ...]
    readout_fan_in: int = 0
    splits: int = 1
    residual_blocks: int = 1
    num_inputs: int = 0


@dataclasses.dataclass(frozen=True)
class VectorLeaf:
    """A parameter that scales or shifts signals, and the layer that it follows.

    Attributes:
      path: path of the leaf in the parameters.
      leader: path of the layer that feeds it (the latest one upstream; if that is
        stacked differently, the nearest that fits), or None if none fits.
      stack_axes: axes of the leaf along which layers are stacked, as in its leader.
      role: ``"scale"``, ``"shift"``, or ``"weight_scale"`` for a factor of weights.
      is_offset: whether a constant is added to it first, as in ``1 + scale``.
      in_axes: axes that are contracted with constants, or with other such parameters,
        and never with a signal; empty for most vectors.
    """

    path: str
    leader: str | None
    stack_axes: tuple[int, ...] = ()
    role: VectorRole = "shift"
    is_offset: bool = False
    in_axes: tuple[int, ...] = ()

    @property
    def how(self) -> VectorRole:
        """The former name of :attr:`role`."""
        return self.role


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the graph.

    Attributes:
      kind: ``"input"``, ``"layer"``, ``"sum"`` or ``"join"``.
      preds: indices of the nodes that feed it, all smaller than its own; a sum lists
        each branch.
      layer: for a layer, its index in :attr:`Architecture.layers`, else -1.
      fan_in: for a layer, the fan-in of this use of it, else 0.
      label: for an input, its name.
    """

    kind: NodeKind
    preds: tuple[int, ...] = ()
    layer: int = -1
    fan_in: int = 0
    label: str = ""


@dataclasses.dataclass(frozen=True)
class LayerGraph:
    """Nodes, layers and vectors, and the statistics of all paths through the nodes.

    The fields are those of :class:`Architecture`.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    layers: tuple[Layer, ...]
    vectors: tuple[VectorLeaf, ...]
    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    returned_leaves: tuple[str, ...] = ()

    @functools.cached_property
    def path_depths(self) -> dict[int, int]:
        """{depth: number of input-to-output paths with that many layers}."""
        uses = collections.Counter(pred for node in self.nodes for pred in node.preds)
        counts: dict[int, collections.Counter[int]] = {}
        depths: collections.Counter[int] = collections.Counter()
        for index, node in enumerate(self.nodes):
            step = int(node.kind == "layer")
            total: collections.Counter[int] = collections.Counter()
            if node.kind == "input":
                total[0] = 1
            for pred in node.preds:
                for depth, count in counts[pred].items():
                    total[depth + step] += count
                uses[pred] -= 1
                if not uses[pred]:  # nothing needs it any more
                    del counts[pred]
            if uses[index]:
                counts[index] = total
            if index in self.outputs:
                depths.update(total)
        return dict(sorted(depths.items()))

    @functools.cached_property
    def _moments(self) -> tuple[int, int, int, int]:
        """Sums over all paths of depth ** 0, 1, 2 and 3, without the histogram."""
        moments: list[tuple[int, int, int, int]] = []
        for node in self.nodes:
            if node.kind == "input":
                moments.append((1, 0, 0, 0))
                continue
            n, s, q, c = (sum(moments[p][i] for p in node.preds) for i in range(4))
            if node.kind == "layer":  # (d + 1) ** k
                n, s, q, c = n, s + n, q + 2 * s + n, c + 3 * q + 3 * s + n
            moments.append((n, s, q, c))
        return tuple(  # type: ignore[return-value]
            sum(moments[output][i] for output in self.outputs) for i in range(4)
        )

    def _extreme_depth(self, choose: Callable[[Iterable[int]], int]) -> int:
        depths: list[int | None] = []
        for node in self.nodes:
            found = [d for d in (depths[pred] for pred in node.preds) if d is not None]
            step = int(node.kind == "layer")
            reached = choose(found) + step if found else None
            depths.append(0 if node.kind == "input" else reached)
        return choose(d for o in self.outputs if (d := depths[o]) is not None)

    @property
    def num_paths(self) -> int:
        """The number of input-to-output paths."""
        return self._moments[0]

    @property
    def sum_cubed_depths(self) -> int:
        """The sum of depth ** 3 over all paths."""
        return self._moments[3]

    @property
    def mean_path_depth(self) -> float:
        """The mean depth of all paths."""
        return float(Fraction(self._moments[1], self._moments[0]))

    @functools.cached_property
    def min_depth(self) -> int:
        """The smallest number of layers on a path."""
        return self._extreme_depth(min)

    @functools.cached_property
    def max_depth(self) -> int:
        """The largest number of layers on a path."""
        return self._extreme_depth(max)
