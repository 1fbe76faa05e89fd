"""Tables and drawings of a traced architecture."""

import collections
import math
from typing import Any

from hpfree_jax._errors import needs_extra
from hpfree_jax.architecture._graph import Layer, LayerGraph

COLORS = {"input": "#d9d9d9", "layer": "#a6cee3", "sum": "#fdbf6f", "join": "#b2df8a"}


def summary(arch: LayerGraph) -> str:
    """A table of the layers and vectors, and the path statistics, as text."""
    shapes = dict(arch.leaves)
    rows = [
        (
            layer.path,
            layer.kind,
            "x".join(map(str, shapes[layer.path])),
            str(layer.fan_in),
            str(layer.fan_out),
            str(layer.in_degree),
            str(layer.uses),
            _notes(layer),
        )
        for layer in arch.layers
    ]
    header = ("layer", "kind", "shape", "fan_in", "fan_out", "in_degree", "uses", "")
    parts = [_table(header, rows)]
    if arch.vectors:
        parts.append(
            _table(
                ("vector", "follows", "role"),
                [(v.path, v.leader or "nothing", v.role) for v in arch.vectors],
            )
        )
    kinds = collections.Counter(node.kind for node in arch.nodes)
    total = sum(map(math.prod, shapes.values()))
    parts.append(
        f"{kinds['layer']} layer(s), {kinds['sum']} sum(s), {kinds['join']} join(s), "
        f"{total:,} parameters\n"
        f"{_integer(arch.num_paths)} path(s) of {arch.min_depth} to {arch.max_depth} "
        f"layers, {arch.mean_path_depth:.4g} on average\n"
        f"sum of cubed depths: {_integer(arch.sum_cubed_depths)}"
    )
    return "\n\n".join(parts)


def _notes(layer: Layer) -> str:
    notes = []
    if len(layer.leaves) > 1:
        notes.append("with " + ", ".join(leaf.path for leaf in layer.leaves[1:]))
    if layer.stack_axes:
        notes.append(f"stacked along {layer.stack_axes}")
    if layer.splits > 1:
        notes.append(f"cut in {layer.splits}")
    if layer.residual_blocks > 1:
        notes.append(f"one of {layer.residual_blocks} residual blocks")
    if layer.readout_fan_in:
        notes.append("readout")
    return "; ".join(notes)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _integer(number: int) -> str:
    digits = str(number)  # exact, where an e-notation would not be
    return (
        f"{number:,}"
        if len(digits) <= 15
        else f"{digits[0]}.{digits[1:4]}e{len(digits) - 1}"
    )


def labels_of(arch: LayerGraph) -> list[str]:
    """A short text for each node."""
    labels = []
    for node in arch.nodes:
        if node.kind == "layer":
            labels.append(_layer_label(arch.layers[node.layer], node.fan_in))
        elif node.kind == "input":
            labels.append(node.label)
        else:
            labels.append("+" if node.kind == "sum" else "join")
    return labels


def _layer_label(layer: Layer, fan_in: int) -> str:
    path = layer.path
    for ending in ("/kernel", "/weight", "/embedding"):
        path = path.removesuffix(ending)
    window = "x".join(map(str, layer.kernel_size))
    kind = f"{layer.kind} {window}" if window else layer.kind
    kind = kind if fan_in == layer.fan_in else "tied"
    return f"{path}: {kind}, {fan_in}"


def to_dot(arch: LayerGraph) -> str:
    """The graph in Graphviz's DOT language."""
    lines = ["digraph architecture {", "  rankdir=TB;", "  node [style=filled];"]
    for index, (node, label) in enumerate(
        zip(arch.nodes, labels_of(arch), strict=True)
    ):
        shape = "box" if node.kind == "layer" else "ellipse"
        text = label.replace("\\", "\\\\").replace('"', '\\"')
        color = COLORS[node.kind]
        lines.append(
            f'  n{index} [label="{text}", shape={shape}, fillcolor="{color}"];'
        )
    for index, node in enumerate(arch.nodes):
        lines.extend(f"  n{pred} -> n{index};" for pred in node.preds)
    for index in arch.outputs:
        lines.append(f"  n{index} [peripheries=2];")
    return "\n".join([*lines, "}"])


def plot(arch: LayerGraph, ax: Any = None) -> Any:
    """Draws the graph from top to bottom, one row for each step of the longest path."""
    with needs_extra("arch.plot()", "train"):
        from matplotlib.figure import Figure

    rows = _rows(arch)
    columns = _columns(arch, rows)
    num_rows = max(rows) + 1
    widest = max(collections.Counter(rows).values())
    height, width = max(2.0, 0.34 * num_rows), max(4.0, 2.6 * (widest + 1))
    if ax is None:
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.subplots()
    size = _font_size(ax, num_rows)
    ax.set_xlim(min(columns) - 1, max(columns) + 1)
    ax.set_ylim(-num_rows + 0.4, 0.6)
    ax.set_axis_off()
    _draw_edges(ax, arch, rows, columns, size)
    for index, (node, label) in enumerate(
        zip(arch.nodes, labels_of(arch), strict=True)
    ):
        ax.text(
            columns[index],
            -rows[index],
            label,
            ha="center",
            va="center",
            fontsize=size,
            zorder=2,
            bbox={
                "boxstyle": "circle" if node.kind == "sum" else "round,pad=0.25",
                "facecolor": COLORS[node.kind],
                "edgecolor": "black" if index in arch.outputs else "none",
                "linewidth": 1.0,
            },
        )
    return ax


def _draw_edges(
    ax: Any, arch: LayerGraph, rows: list[int], columns: list[float], size: float
) -> None:
    """Arrows, bent where they would pass behind a node."""
    taken = collections.defaultdict(list)  # the columns of the nodes of a row
    for row, column in zip(rows, columns, strict=True):
        taken[row].append(column)
    for index, node in enumerate(arch.nodes):
        for pred in node.preds:
            between = range(rows[pred] + 1, rows[index])
            is_hidden = any(
                abs(column - columns[pred]) < 0.2
                for row in between
                for column in taken[row]
            )
            start = columns[pred], -rows[pred]
            end = columns[index], -rows[index]
            bend = _bend(ax, start, end) if is_hidden else 0.0
            ax.annotate(
                "",
                xy=end,
                xytext=start,
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#777777",
                    "linewidth": 0.8,
                    "shrinkA": size * 0.8,
                    "shrinkB": size * 0.8,
                    "connectionstyle": f"arc3,rad={bend}",
                },
                zorder=1,
            )


def _bend(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> float:
    """The curvature with which an arrow passes beside the nodes of a column."""
    to_pixels = ax.transData.transform
    (x0, y0), (x1, y1) = to_pixels([start, end])
    column = to_pixels((1, 0))[0] - to_pixels((0, 0))[0]
    length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1.0)
    return min(1.25 * column / length, 3.0)


def _font_size(ax: Any, num_rows: int) -> float:
    inches = ax.figure.get_size_inches()[1] * ax.get_position().height
    return max(3.0, min(8.0, 72 * inches / max(num_rows, 1) * 0.38))


def _rows(arch: LayerGraph) -> list[int]:
    """The longest way from the start to each node."""
    rows: list[int] = []
    for node in arch.nodes:
        rows.append(max((rows[pred] + 1 for pred in node.preds), default=0))
    return rows


def _columns(arch: LayerGraph, rows: list[int]) -> list[float]:
    """Below what feeds a node, side by side where several share a row."""
    members = collections.defaultdict(list)
    for index, row in enumerate(rows):
        members[row].append(index)
    places = [0.0] * len(rows)
    for row in sorted(members):
        wanted = {
            index: _mean([places[pred] for pred in arch.nodes[index].preds])
            for index in members[row]
        }
        ordered = sorted(members[row], key=lambda index: (wanted[index], index))
        middle = _mean(list(wanted.values()))
        for position, index in enumerate(ordered):
            places[index] = middle + position - (len(ordered) - 1) / 2
    return places


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
