"""The architecture of a model: its graph of layers, and all that is read off it."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from jaxtyping import PyTree

from hpfree_jax.architecture import _draw
from hpfree_jax.architecture._graph import LayerGraph, Node
from hpfree_jax.architecture._to_layout import layout_of
from hpfree_jax.layouts import Layout, Matrix, Vector


@dataclasses.dataclass(frozen=True)
class Architecture(LayerGraph):
    r"""The graph of layers of a model, from :func:`trace_architecture`.

    A path runs from an input to an output along the edges of the graph; its depth is
    the number of layers on it. With :math:`c_v(d)` the number of paths of depth
    :math:`d` from the inputs to node :math:`v`,

    .. math::
        c_v(d) = \sum_{u \to v} c_u(d - [v \text{ is a layer}]), \qquad
        c_\text{input}(d) = [d = 0],

    so that paths are counted node by node, without being enumerated. All counts are
    exact Python integers.

    Attributes:
      nodes: in the order of execution, so that edges point forward.
      outputs: indices of the nodes that the model returns.
      layers: one for each weight, in the order of first use. A stack of layers is one
        entry here, and one node for each slice.
      vectors: biases, scales and shifts.
      leaves: (path, shape) of every floating-point parameter.
      returned_leaves: paths of parameters that the model returns and applies to no
        signal.
    """

    @property
    def others(self) -> tuple[str, ...]:
        """The former name of :attr:`returned_leaves`."""
        return self.returned_leaves

    def subgraph(self, prefix: str) -> "Architecture":
        """The part of the graph whose layers lie under a path, as one block.

        Besides the layers whose path is ``prefix`` or starts with ``prefix/``, it holds
        the sums and joins that combine nothing but these and what feeds them (a
        residual sum at the end of the block, say). What feeds them are its inputs, and
        what the rest of the model uses are its outputs. In-degrees and leaders are
        those of the whole model.

        Raises:
          ValueError: if no layer lies under ``prefix``.
        """
        prefix = prefix.rstrip("/")
        below = lambda path: path == prefix or path.startswith(prefix + "/")
        chosen = [i for i, layer in enumerate(self.layers) if below(layer.path)]
        if not chosen:
            raise self._no_layer_under(prefix)
        inside = self._block_of(set(chosen))
        sources = self._preds(inside) - inside
        order = sorted(inside | sources)
        numbers = {index: number for number, index in enumerate(order)}
        places = {layer: place for place, layer in enumerate(chosen)}

        def move(index: int) -> Node:
            node = self.nodes[index]
            if index in sources:
                return Node("input", label=self._name(node))
            preds = tuple(numbers[pred] for pred in node.preds)
            layer = places.get(node.layer, -1)
            return dataclasses.replace(node, preds=preds, layer=layer)

        used_outside = self._preds(set(range(len(self.nodes))) - inside)
        outputs = inside & (used_outside | set(self.outputs))
        return Architecture(
            nodes=tuple(map(move, order)),
            outputs=tuple(numbers[index] for index in sorted(outputs)),
            layers=tuple(self.layers[i] for i in chosen),
            vectors=tuple(v for v in self.vectors if below(v.path)),
            leaves=tuple(leaf for leaf in self.leaves if below(leaf[0])),
            returned_leaves=tuple(filter(below, self.returned_leaves)),
        )

    def _preds(self, nodes: Iterable[int]) -> set[int]:
        return {pred for index in nodes for pred in self.nodes[index].preds}

    def _block_of(self, layers: set[int]) -> set[int]:
        """Nodes of the layers, and the sums and joins of nothing but these."""
        inside = {i for i, node in enumerate(self.nodes) if node.layer in layers}
        sources = self._preds(inside) - inside
        for index, node in enumerate(self.nodes):
            preds = set(node.preds)
            combines = node.kind in ("sum", "join") and preds & inside
            if combines and preds <= inside | sources:
                inside.add(index)
        return inside

    def _no_layer_under(self, prefix: str) -> ValueError:
        names = {
            "/".join(layer.path.split("/")[:depth])
            for layer in self.layers
            for depth in range(1, layer.path.count("/") + 2)
        }
        close = difflib.get_close_matches(prefix, sorted(names), n=3)
        hint = ", ".join(f"`{name}`" for name in close or sorted(names)[:3])
        return ValueError(
            f"No layer has a path under `{prefix}`. Existing paths: {hint}."
        )

    def _name(self, node: Node) -> str:
        if node.kind == "input":
            return node.label
        return self.layers[node.layer].path if node.kind == "layer" else node.kind

    def layout(
        self,
        params: PyTree | None = None,
        overrides: dict[str, Matrix | Vector | None] | None = None,
    ) -> Layout:
        """The exact layout of the model, a :class:`hpfree_jax.Layout`, for AGD.

        See :func:`hpfree_jax.architecture.layout_of`.
        """
        return layout_of(self, params, overrides)

    def summary(self) -> str:
        """A table of the layers and vectors, and the path statistics, as text."""
        return _draw.summary(self)

    def to_dot(self) -> str:
        """The graph in Graphviz's DOT language."""
        return _draw.to_dot(self)

    def plot(self, ax: Any = None) -> Any:
        """Draws the graph with matplotlib, inputs on top, and returns the axes.

        Args:
          ax: matplotlib axes to draw on; if not given, those of a new figure whose size
            fits the graph.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        return _draw.plot(self, ax)
