"""Architectures written as strings: the paper's DAGs and cells of NAS-Bench-201."""

import collections
import dataclasses
import re

# Digits of a string, and how many layers an edge of that kind has; None: no edge.
_DAG_EDGES = {"0": None, "1": 0, "2": 1}
_CELL_EDGES = {"0": None, "1": 0, "2": 1, "3": 1, "4": 0}
_CELL_NAMES = {
    "none": "0",
    "skip_connect": "1",
    "nor_conv_1x1": "2",
    "nor_conv_3x3": "3",
    "avg_pool_3x3": "4",
}


@dataclasses.dataclass(frozen=True)
class Dag:
    """A graph of layers on numbered nodes, from its string.

    Attributes:
      code: the string: for node 1, 2, ... a group with the kind of edge from each
        earlier node; node 0 is the input.
      path_depths: {layers on the path: number of paths} from node 0 to the last node.
        Layers before and after the DAG (stem and readout) are not counted; add them
        with :meth:`with_layers`.
      in_degrees: for node 1, 2, ... the number of edges into it. Edges that no path
        from node 0 reaches count too, as in the published code.
    """

    code: str
    path_depths_items: tuple[tuple[int, int], ...] = dataclasses.field(repr=False)
    in_degrees: tuple[int, ...]

    @property
    def digits(self) -> str:
        """The string as digits, where it is written with names of operations."""
        return _digits(self.code)

    @property
    def path_depths(self) -> dict[int, int]:
        """{layers on the path: number of paths}, from node 0 to the last node."""
        return dict(self.path_depths_items)

    @property
    def num_paths(self) -> int:
        """The number of paths from node 0 to the last node."""
        return sum(count for _, count in self.path_depths_items)

    @property
    def sum_cubed_depths(self) -> int:
        """The sum of depth ** 3 over all paths."""
        return sum(count * depth**3 for depth, count in self.path_depths_items)

    def with_layers(self, num_layers: int) -> "Dag":
        """The same DAG with more layers on every path, before or behind it.

        >>> parse_dag("2_02_002").with_layers(2).path_depths  # stem and readout
        {5: 1}
        """
        if num_layers < 0 or num_layers != int(num_layers):
            raise ValueError(
                f"`num_layers` must be an integer of at least 0, got {num_layers}."
            )
        items = ((depth + num_layers, count) for depth, count in self.path_depths_items)
        return dataclasses.replace(self, path_depths_items=tuple(items))


def parse_dag(code: str) -> Dag:
    r"""Reads a DAG of the paper's family.

    ``"a_bb_ccc"`` lists, for node 1, 2, 3, ..., the edge from each earlier node: 0
    none, 1 a skip, 2 a layer. There may be any number of nodes.

    Two differences from the published code: paths without a layer are
    counted one by one, where the code makes all of them a single path of depth 0; and
    a DAG without a path from node 0 to the last node is an error, where the code gives
    it the depth 0.

    Args:
      code: the string.

    Returns:
      A :class:`Dag` with ``path_depths``, ``in_degrees`` and ``with_layers``.

    Raises:
      ValueError: at a wrong character or length, or if no path leads from node 0 to
        the last node; the message names the node.

    References:
      Chen et al., `Principled Architecture-aware Scaling of Hyperparameters
      <https://arxiv.org/abs/2402.17440>`_, ICLR 2024.

    >>> dag = parse_dag("2_12_022")
    >>> dag.path_depths  # 0-1-3, 0-2-3 and 0-1-2-3
    {1: 1, 2: 1, 3: 1}
    >>> dag.in_degrees
    (1, 2, 2)
    """
    return _parse(code, _DAG_EDGES, "0 (none), 1 (skip) and 2 (layer)")


def parse_nas_bench_201(code: str) -> Dag:
    """Reads a cell of NAS-Bench-201; its convolutions count as layers.

    Either digits as in :func:`parse_dag`, with 0 none, 1 skip, 2 convolution 1x1,
    3 convolution 3x3, 4 average pooling, or the names of the benchmark's own files.
    A cell has the nodes 0 to 3.

    Raises:
      ValueError: at a wrong character, name or length, or if no path leads from node 0
        to node 3; the message names the node.

    >>> parse_nas_bench_201("3_34_131").path_depths
    {0: 1, 1: 2, 2: 1}
    >>> parse_nas_bench_201(
    ...     "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
    ...     "+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    ... ).path_depths
    {0: 1, 1: 2, 2: 1}
    """
    _check_string(code)
    digits = _digits(code)
    if digits.count("_") != 2:
        raise ValueError(
            f"A cell of NAS-Bench-201 has 3 nodes behind node 0, but {code!r} has "
            f"{digits.count('_') + 1} groups."
        )
    kinds = "0 (none), 1 (skip), 2 (conv1x1), 3 (conv3x3) and 4 (avgpool)"
    return dataclasses.replace(_parse(digits, _CELL_EDGES, kinds), code=code)


def _digits(code: str) -> str:
    """The digits of a cell that may be written with the names of the benchmark.

    Raises:
      ValueError: at a wrong name; digits are not checked.
    """
    if "|" not in code:
        return code
    groups = []
    for node, group in enumerate(code.split("+"), start=1):
        entries = [entry for entry in group.strip("|").split("|") if entry]
        digits = {}
        for entry in entries:
            found = re.fullmatch(r"(\w+)~(\d+)", entry)
            if not found or found[1] not in _CELL_NAMES or int(found[2]) >= node:
                raise ValueError(
                    f"Node {node} of {code!r} has the edge {entry!r}; expected "
                    f"name~node with an earlier node and a name out of "
                    f"{', '.join(_CELL_NAMES)}."
                )
            digits[int(found[2])] = _CELL_NAMES[found[1]]
        if len(digits) != len(entries):
            raise ValueError(f"Node {node} of {code!r} lists an earlier node twice.")
        groups.append("".join(digits.get(source, "0") for source in range(node)))
    return "_".join(groups)


def _check_string(code: str) -> None:
    if not isinstance(code, str):
        raise TypeError(f"`code` must be a string such as '2_02_002', got {code!r}.")


def _parse(code: str, edges: dict[str, int | None], kinds: str) -> Dag:
    _check_string(code)
    counts: list[dict[int, int]] = [{0: 1}]
    in_degrees = []
    for node, group in enumerate(code.split("_"), start=1):
        if len(group) != node:
            raise ValueError(
                f"Node {node} of {code!r} needs {node} digit(s), one for each earlier "
                f"node, got {group!r}."
            )
        paths: dict[int, int] = collections.defaultdict(int)
        for source, digit in enumerate(group):
            if digit not in edges:
                raise ValueError(
                    f"Node {node} of {code!r} has the edge {digit!r} from node "
                    f"{source}; the kinds of edges are {kinds}."
                )
            layers = edges[digit]
            if layers is not None:
                for depth, count in counts[source].items():
                    paths[depth + layers] += count
        counts.append(dict(sorted(paths.items())))
        in_degrees.append(sum(edges[digit] is not None for digit in group))
    last = len(counts) - 1
    if not counts[last]:
        cut = [str(node) for node in range(1, last + 1) if not counts[node]]
        raise ValueError(
            f"No path leads from node 0 to node {last} in {code!r}: node(s) "
            f"{', '.join(cut)} cannot be reached."
        )
    return Dag(code, tuple(counts[last].items()), tuple(in_degrees))
