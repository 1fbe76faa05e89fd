"""Edges of a graph written as a string, without those that change nothing."""

from typing import NamedTuple


class Edge(NamedTuple):
    """An edge of a DAG or a cell, from an earlier node to a later one."""

    source: int
    target: int
    kind: str  # the digit of the string

    @property
    def name(self) -> str:
        """Its name among the parameters."""
        return f"{self.source}_to_{self.target}"


def live_edges(code: str) -> tuple[Edge, ...]:
    """Edges on a path from node 0 to the last node, in order of their targets.

    Only digits other than 0 are edges. The string has been checked before.

    >>> [edge.name for edge in live_edges("2_00_202")]  # node 1 feeds nothing
    ['0_to_3']
    """
    groups = code.split("_")
    edges = [
        Edge(source, target, digit)
        for target, group in enumerate(groups, start=1)
        for source, digit in enumerate(group)
        if digit != "0"
    ]
    reached, useful = {0}, {len(groups)}
    for edge in edges:
        if edge.source in reached:
            reached.add(edge.target)
    for edge in reversed(edges):
        if edge.target in useful:
            useful.add(edge.source)
    return tuple(e for e in edges if e.source in reached and e.target in useful)
