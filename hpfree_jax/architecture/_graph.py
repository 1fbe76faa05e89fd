"""The traced graph: plain, frozen, hashable Python, and its path statistics."""

import collections
import dataclasses
import difflib
import functools
from fractions import Fraction
from typing import Any

from jaxtyping import PyTree

from hpfree_jax.layouts._layout import Layout, Matrix, Vector


@dataclasses.dataclass(frozen=True)
class LeafAxes:
    """What the axes of one leaf of a layer do; see :class:`hpfree_jax.Matrix`.

    Attributes:
      path: of the leaf.
      in_axes: summed over.
      out_axes: kept in the output.
      position_axes: spatial axes of a kernel.
      stack_axes: along which independent layers are stacked.
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
    r"""A weight that is contracted with signals, in all its uses.

    Attributes:
      path: of its leaf in the parameters; the first of :attr:`leaves`.
      kind: ``"dense"``, ``"conv"`` or ``"embedding"`` (a lookup, or a product with a
        one-hot encoding), that of its first use.
      fan_in: inputs summed into one unit: the kernel window included, divided by the
        groups of a convolution; for an embedding the number of rows.
      fan_out: units that one input is summed into.
      kernel_size: of a convolution, one number for each spatial axis, else empty.
      in_axes: axes of the leaf summed over.
      out_axes: axes of the leaf that the output keeps.
      position_axes: spatial axes of the leaf.
      stack_axes: axes of the leaf along which independent layers are stacked.
      in_degree: branches of the sum that its output goes to and nowhere else, skips
        included; 1 for every other layer. The largest among its uses.
      source_in_degree: branches of the sum that feeds it, else 1.
      uses: how often each of its weights is applied: 2 for a tied embedding, the
        number of steps for a recurrent layer, 1 for each slice of a stack.
      leaves: every leaf it is made of, and what their axes do: three for a low-rank
        adaptation ``W + A @ B``.
      readout_fan_in: its fan-in where it produces an output of the model, else 0.
      splits: into how many parts, used apart, its output is cut: 3 for a fused
        projection to queries, keys and values.
      residual_blocks: of a layer whose output is added to a residual stream, how many
        blocks add to that stream; else 1.
      num_inputs: how many input vectors each of its matrices is applied to in the
        traced batch, over all its uses: examples times positions of the output; of
        a lookup, the rows. Of a stack, those of the slice that gets most. The forward
        pass of a product takes ``2 * fan_in * n * num_inputs`` operations for each
        slice, ``n`` being the product of the sizes of :attr:`out_axes`. 0 where it is
        not known: of a layer that was made by hand.
    """

    path: str
    kind: str
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
      path: of the leaf.
      leader: path of the layer that feeds it (the latest one upstream; where that is
        stacked otherwise, the nearest that fits), or None where none fits.
      stack_axes: axes of the leaf along which layers are stacked, like its leader.
      how: ``"scale"``, ``"shift"``, or ``"weight_scale"`` for a factor of weights.
      is_offset: whether a constant is added to it first, as in ``1 + scale``.
      in_axes: axes of a leaf of several axes that are contracted with
        constants, or with other such parameters, and never with a signal.
    """

    path: str
    leader: str | None
    stack_axes: tuple[int, ...] = ()
    how: str = "shift"
    is_offset: bool = False
    in_axes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the graph.

    Attributes:
      kind: ``"input"``, ``"layer"``, ``"sum"`` or ``"join"``.
      preds: numbers of the nodes that feed it, all before it; a sum lists each branch.
      layer: for a layer, its place in :attr:`Architecture.layers`, else -1.
      fan_in: for a layer, the fan-in of this use of it, else 0.
      label: for an input, which one.
    """

    kind: str
    preds: tuple[int, ...] = ()
    layer: int = -1
    fan_in: int = 0
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Architecture:
    r"""The graph of layers of a model, from :func:`trace_architecture`.

    A path runs from an input to an output along the edges of the graph; its depth is
    the number of layers on it. With :math:`c_v(d)` the number of paths of depth
    :math:`d` from the inputs to node :math:`v`,

    .. math::
        c_v(d) = \sum_{u \to v} c_u(d - [v \text{ is a layer}]), \qquad
        c_\text{input}(d) = [d = 0],

    so that paths are counted node by node and never listed. All counts are exact
    Python integers.

    Attributes:
      nodes: in the order of execution, so that edges point forward.
      outputs: numbers of the nodes that the model returns.
      layers: one for each weight, in the order of first use. A stack of layers is one
        entry here and as many nodes as it has slices.
      vectors: biases, scales and shifts.
      leaves: (path, shape) of every floating-point parameter.
      others: paths of parameters that are returned as they are and act on no signal.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    layers: tuple[Layer, ...]
    vectors: tuple[VectorLeaf, ...]
    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    others: tuple[str, ...] = ()

    # --- path statistics --------------------------------------------------------------

    @functools.cached_property
    def path_depths(self) -> dict[int, int]:
        """{depth: number of input-to-output paths with that many layers}."""
        waiting = collections.Counter(
            pred for node in self.nodes for pred in node.preds
        )
        counts: dict[int, dict[int, int]] = {}
        depths: dict[int, int] = collections.defaultdict(int)
        for index, node in enumerate(self.nodes):
            step = int(node.kind == "layer")
            total: dict[int, int] = collections.defaultdict(int)
            if node.kind == "input":
                total[0] = 1
            for pred in node.preds:
                for depth, count in counts[pred].items():
                    total[depth + step] += count
                waiting[pred] -= 1
                if not waiting[pred]:  # nothing needs it any more
                    del counts[pred]
            if waiting[index]:
                counts[index] = total
            if index in self.outputs:
                for depth, count in total.items():
                    depths[depth] += count
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

    def _extreme_depth(self, choose: Any) -> int:
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

    # --- parts ------------------------------------------------------------------------

    def subgraph(self, prefix: str) -> "Architecture":
        """The part of the graph whose layers lie under a path, as one block.

        Besides the layers whose path is ``prefix`` or starts with ``prefix/``, it holds
        the sums and joins that combine nothing but these and what feeds them (a
        residual sum at the end of the block, say). What feeds them are its inputs, and
        what the rest of the model uses are its outputs. In-degrees and leaders stay
        what they are in the whole model.

        Raises:
          ValueError: if no layer lies under ``prefix``.
        """
        prefix = prefix.rstrip("/")
        below = lambda path: path == prefix or path.startswith(prefix + "/")
        chosen = [i for i, layer in enumerate(self.layers) if below(layer.path)]
        if not chosen:
            names = {
                "/".join(layer.path.split("/")[:depth])
                for layer in self.layers
                for depth in range(1, layer.path.count("/") + 2)
            }
            close = difflib.get_close_matches(prefix, sorted(names), n=3)
            hint = ", ".join(f"`{name}`" for name in close or sorted(names)[:3])
            raise ValueError(
                f"No layer has a path under `{prefix}`. Paths that there are: {hint}."
            )
        inside = {i for i, node in enumerate(self.nodes) if node.layer in chosen}
        sources = {pred for i in inside for pred in self.nodes[i].preds} - inside
        for index, node in enumerate(self.nodes):
            if node.kind not in ("sum", "join") or not set(node.preds) & inside:
                continue
            if set(node.preds) <= inside | sources:
                inside.add(index)
        sources = {pred for i in inside for pred in self.nodes[i].preds} - inside
        order = sorted(inside | sources)
        numbers = {index: number for number, index in enumerate(order)}
        places = {layer: place for place, layer in enumerate(chosen)}
        nodes = []
        for index in order:
            node = self.nodes[index]
            if index in sources:
                nodes.append(Node("input", label=self._name(index)))
                continue
            nodes.append(
                dataclasses.replace(
                    node,
                    preds=tuple(numbers[pred] for pred in node.preds),
                    layer=places.get(node.layer, -1),
                )
            )
        used_outside = {
            pred
            for index, node in enumerate(self.nodes)
            if index not in inside
            for pred in node.preds
        }
        outputs = inside & (used_outside | set(self.outputs))
        return Architecture(
            nodes=tuple(nodes),
            outputs=tuple(numbers[index] for index in sorted(outputs)),
            layers=tuple(self.layers[i] for i in chosen),
            vectors=tuple(v for v in self.vectors if below(v.path)),
            leaves=tuple(leaf for leaf in self.leaves if below(leaf[0])),
            others=tuple(path for path in self.others if below(path)),
        )

    def _name(self, index: int) -> str:
        node = self.nodes[index]
        if node.kind == "input":
            return node.label
        return self.layers[node.layer].path if node.kind == "layer" else node.kind

    # --- what other methods need ------------------------------------------------------

    def layout(
        self,
        params: PyTree | None = None,
        overrides: dict[str, Matrix | Vector | None] | None = None,
    ) -> Layout:
        """The exact :class:`hpfree_jax.Layout` of the model, for AGD.

        See :func:`hpfree_jax.architecture.layout_of`.
        """
        from hpfree_jax.architecture._to_layout import layout_of

        return layout_of(self, params, overrides)

    # --- for people -------------------------------------------------------------------

    def summary(self) -> str:
        """The layers, vectors and path statistics, as a table to print."""
        from hpfree_jax.architecture._draw import summary

        return summary(self)

    def to_dot(self) -> str:
        """The graph in the language of Graphviz."""
        from hpfree_jax.architecture._draw import to_dot

        return to_dot(self)

    def plot(self, ax: Any = None) -> Any:
        """Draws the graph with matplotlib, inputs on top, and returns the axes.

        Args:
          ax: matplotlib axes to draw on; None makes a figure of a fitting size.
        """
        from hpfree_jax.architecture._draw import plot

        return plot(self, ax)
