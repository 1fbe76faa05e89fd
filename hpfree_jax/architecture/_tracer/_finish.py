"""Turns the raw graph into an :class:`Architecture`: what needs the whole graph."""

import collections

from hpfree_jax.architecture._graph import (
    Architecture,
    Layer,
    LeafAxes,
    Node,
    VectorLeaf,
)
from hpfree_jax.architecture._tracer._build import (
    Application,
    Builder,
    RawNode,
    VectorUse,
)

Edges = dict[int, list[int]]  # node -> nodes that use it, once per use


def finish(builder: Builder) -> Architecture:
    """Prunes, merges sums, counts degrees and uses, and finds leaders."""
    if not builder.outputs:
        raise ValueError(
            "The outputs of the traced function depend on none of its inputs, so that "
            "there is no path from an input to an output. Pass the data as inputs, "
            "after the parameters."
        )
    live = _live_nodes(builder)
    applications = {
        index: application
        for index, application in enumerate(builder.applications)
        if application.node in live
    }
    vector_uses = [use for use in builder.vector_uses if use.node in live]
    matrices = {role.leaf for app in applications.values() for role in app.roles}
    _check_reads(builder, matrices, vector_uses)
    nodes = _merge_sums(builder, live)
    users = _users(nodes)
    outputs = set(builder.outputs)
    graph = _Graph(nodes, users, outputs)

    groups: dict[tuple[int, ...], list[int]] = {}
    for index, application in applications.items():
        key = tuple(sorted(role.leaf for role in application.roles))
        groups.setdefault(key, []).append(index)
    layer_of = {
        index: number for number, group in enumerate(groups.values()) for index in group
    }
    readouts = graph.readouts()
    blocks = graph.residual_blocks(applications)
    paths = [leaf.path for leaf in builder.leaves]
    layers = tuple(
        _layer(
            [applications[index] for index in group], builder, graph, readouts, blocks
        )
        for group in groups.values()
    )
    numbers = {node: number for number, node in enumerate(nodes)}
    vectors = _vectors(
        builder, vector_uses, matrices, applications, layers, layer_of, graph
    )
    return Architecture(
        nodes=tuple(
            Node(
                kind=raw.kind,
                preds=tuple(numbers[pred] for pred in raw.preds),
                layer=layer_of.get(raw.application, -1),
                fan_in=applications[raw.application].fan_in
                if raw.application >= 0
                else 0,
                label=raw.label,
            )
            for raw in nodes.values()
        ),
        outputs=tuple(numbers[node] for node in nodes if node in outputs),
        layers=layers,
        vectors=vectors,
        leaves=tuple(
            (leaf.path, leaf.shape) for leaf in builder.leaves if leaf.is_inexact
        ),
        others=tuple(
            paths[leaf]
            for leaf in sorted(builder.read - matrices)
            if paths[leaf] not in {vector.path for vector in vectors}
        ),
    )


def _live_nodes(builder: Builder) -> set[int]:
    live, queue = set(), list(builder.outputs)
    while queue:
        node = queue.pop()
        if node not in live:
            live.add(node)
            queue.extend(builder.nodes[node].preds)
    return live


def _check_reads(
    builder: Builder, matrices: set[int], vector_uses: list[VectorUse]
) -> None:
    read = matrices | {use.leaf for use in vector_uses} | builder.read
    wanted = [i for i, leaf in enumerate(builder.leaves) if leaf.is_inexact]
    unread = [builder.leaves[i].path for i in wanted if i not in read]
    if not wanted:
        raise ValueError("The parameters hold no floating-point leaf.")
    if len(unread) == len(wanted):
        raise ValueError(
            "The traced function ignores its parameters: nothing that its outputs "
            f"depend on reads {_listed(unread)}. Pass the parameters that the function "
            "uses, rather than closing over them."
        )
    if unread:
        raise ValueError(
            f"Nothing that the outputs depend on reads the parameters "
            f"{_listed(unread)}. Leave them out of the parameters, or return an output "
            "that needs them."
        )


def _listed(paths: list[str]) -> str:
    shown = ", ".join(f"`{path}`" for path in paths[:8])
    return shown + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")


def _merge_sums(builder: Builder, live: set[int]) -> dict[int, RawNode]:
    """Makes (x + y) + z one sum, where nothing else uses the partial sum."""
    nodes = {index: builder.nodes[index] for index in sorted(live)}
    users = _users(nodes)
    merged: dict[int, RawNode] = {}
    for index, raw in nodes.items():
        if raw.kind != "sum":
            merged[index] = raw
            continue
        preds: list[int] = []
        for pred, direct in zip(raw.preds, raw.direct, strict=True):
            is_partial = (
                direct
                and nodes[pred].kind == "sum"
                and len(users[pred]) == 1
                and pred not in builder.outputs
            )
            preds.extend(merged.pop(pred).preds if is_partial else (pred,))
        merged[index] = RawNode("sum", tuple(preds))
    return merged


def _users(nodes: dict[int, RawNode]) -> Edges:
    users: Edges = {index: [] for index in nodes}
    for index, raw in nodes.items():
        for pred in raw.preds:
            users[pred].append(index)
    return users


class _Graph:
    """Facts of the merged graph; nodes keep their numbers from the builder."""

    def __init__(self, nodes: dict[int, RawNode], users: Edges, outputs: set[int]):
        self.nodes, self.users, self.outputs = nodes, users, outputs

    def sum_of(self, node: int) -> int | None:
        """The sum that is the only use of a node, if there is one."""
        if node in self.outputs or len(self.users[node]) != 1:
            return None
        (user,) = self.users[node]
        return user if self.nodes[user].kind == "sum" else None

    def in_degree(self, node: int) -> int:
        """Branches of the sum that the node's output goes to alone, else 1."""
        target = self.sum_of(node)
        return 1 if target is None else len(self.nodes[target].preds)

    def source_in_degree(self, node: int) -> int:
        """Branches of the sum that feeds a node, else 1."""
        degrees = [
            len(self.nodes[pred].preds) if self.nodes[pred].kind == "sum" else 1
            for pred in self.nodes[node].preds
        ]
        return max(degrees, default=1)

    def readouts(self) -> set[int]:
        """Layers whose outputs are, alone or summed or joined, what is returned."""
        found: set[int] = set()
        for output in self.outputs:
            if self.nodes[output].kind == "layer":
                if not self.users[output]:
                    found.add(output)
                continue
            ends, is_end = [output], True
            layers: set[int] = set()
            while ends and is_end:
                node = ends.pop()
                for pred in self.nodes[node].preds:
                    raw = self.nodes[pred]
                    if len(self.users[pred]) != 1 or raw.kind == "input":
                        is_end = False
                    elif raw.kind == "layer":
                        layers.add(pred)
                    else:
                        ends.append(pred)
            if is_end:
                found |= layers
        return found

    def residual_blocks(self, applications: dict[int, Application]) -> dict[int, int]:
        """Of each layer that writes to a residual stream, how many blocks write to it.

        A residual sum has a branch, the skip, from which another branch descends. Sums
        that skip to each other form a stream. Branches of the same make (the same
        kinds and fans of layers) are counted together: the most frequent make tells
        the number of blocks, however many branches a block has.
        """
        streams: dict[int, int] = {}  # residual sum -> the stream that it is part of
        makes: dict[int, collections.Counter] = {}
        writers: dict[int, list[int]] = {}
        for index, raw in self.nodes.items():
            if raw.kind != "sum":
                continue
            found = self._skip(index)
            if found is None:
                continue
            skip, branches = found
            stream = streams.setdefault(index, streams.get(skip, skip))
            for branch in branches:
                make = self._make(branch, skip, applications)
                makes.setdefault(stream, collections.Counter())[make] += 1
                if self.nodes[branch].kind == "layer" and self.sum_of(branch) == index:
                    writers.setdefault(stream, []).append(branch)
        return {
            node: max(makes[stream].values())
            for stream, nodes in writers.items()
            for node in nodes
        }

    def _skip(self, node: int) -> tuple[int, list[int]] | None:
        """The skip branch of a residual sum, and its other branches."""
        preds = self.nodes[node].preds
        for skip in sorted(set(preds)):
            if len(self.users[skip]) < 2:
                continue
            branches = [pred for pred in preds if pred != skip]
            if any(skip in self._region(branch, skip) for branch in branches):
                return skip, branches
        return None

    def _region(self, node: int, until: int) -> set[int]:
        """Ancestors of a node, itself included, down to the node ``until``."""
        region, queue = set(), [node]
        while queue:
            current = queue.pop()
            if current >= until and current not in region:
                region.add(current)
                queue.extend(self.nodes[current].preds)
        return region

    def _make(self, node: int, skip: int, applications) -> tuple:
        members = []
        for index in self._region(node, skip) - {skip}:
            raw = self.nodes[index]
            if raw.kind == "layer":
                app = applications[raw.application]
                members.append((app.kind, app.fan_in, app.fan_out, app.kernel_size))
            else:
                members.append((raw.kind, len(raw.preds)))
        return tuple(sorted(members, key=repr))


def _layer(
    group: list[Application],
    builder: Builder,
    graph: _Graph,
    readouts: set[int],
    blocks: dict[int, int],
) -> Layer:
    first = group[0]
    uses = collections.Counter(application.slice_key for application in group)
    num_inputs: collections.Counter = collections.Counter()
    for application in group:
        num_inputs[application.slice_key] += application.num_inputs
    main = first.roles[0]
    readout_fans = [app.fan_in for app in group if app.node in readouts]
    return Layer(
        path=builder.leaves[main.leaf].path,
        kind=first.kind,
        fan_in=first.fan_in,
        fan_out=first.fan_out,
        kernel_size=first.kernel_size,
        in_axes=main.in_axes,
        out_axes=main.out_axes,
        position_axes=main.position_axes,
        stack_axes=main.stack_axes,
        in_degree=max(graph.in_degree(app.node) for app in group),
        source_in_degree=max(graph.source_in_degree(app.node) for app in group),
        uses=max(uses.values()),
        leaves=tuple(
            LeafAxes(
                builder.leaves[role.leaf].path,
                role.in_axes,
                role.out_axes,
                role.position_axes,
                role.stack_axes,
                role.is_factor,
                role.is_last,
            )
            for role in first.roles
        ),
        readout_fan_in=max(readout_fans, default=0),
        splits=_splits(group, builder, graph),
        residual_blocks=max(blocks.get(app.node, 1) for app in group),
        num_inputs=max(num_inputs.values()),
    )


def _splits(group: list[Application], builder: Builder, graph: _Graph) -> int:
    """Into how many parts, used apart, the output of a layer or its weights are cut."""
    out_axes = group[0].roles[0].out_axes
    cuts: dict[tuple, set[tuple]] = collections.defaultdict(set)
    most = 1
    for app in group:
        indexed = tuple(entry for entry in app.slice_key if len(entry) == 2)
        slices = [entry for entry in app.slice_key if len(entry) == 3]
        cuts[indexed].add(tuple(entry for entry in slices if entry[0] in out_axes))
        nodes = [app.node]
        target = graph.sum_of(app.node)
        if target is not None and all(
            graph.nodes[pred].kind == "layer" and graph.sum_of(pred) == target
            for pred in graph.nodes[target].preds
        ):
            nodes.append(target)
        for node in nodes:
            if node in builder.parts and node not in builder.used_whole:
                most = max(most, builder.parts[node].count)
    return max(most, *(len(found) for found in cuts.values()))


def _vectors(
    builder: Builder,
    vector_uses: list[VectorUse],
    matrices: set[int],
    applications: dict[int, Application],
    layers: tuple[Layer, ...],
    layer_of: dict[int, int],
    graph: _Graph,
) -> tuple[VectorLeaf, ...]:
    uses: dict[int, list[VectorUse]] = {}
    for use in vector_uses:
        if use.leaf not in matrices:
            uses.setdefault(use.leaf, []).append(use)
    shapes = {leaf.path: leaf.shape for leaf in builder.leaves}
    stacks = [
        tuple(shapes[layer.path][axis] for axis in layer.stack_axes) for layer in layers
    ]
    vectors = []
    for leaf, found in sorted(uses.items()):
        shape = builder.leaves[leaf].shape
        leader, stack_axes = _leader(
            found, shape, stacks, applications, layer_of, graph
        )
        hows = [use.role for use in found]
        first = found[0]
        contracted = first.contracted if len(shape) > len(first.contracted) else ()
        vectors.append(
            VectorLeaf(
                path=builder.leaves[leaf].path,
                leader=None if leader is None else layers[leader].path,
                stack_axes=stack_axes,
                how=next((h for h in hows if h != "shift"), "shift"),
                is_offset=any(use.is_offset for use in found),
                in_axes=tuple(sorted(contracted)),
            )
        )
    return tuple(vectors)


def _leader(
    uses: list[VectorUse], shape, stacks, applications, layer_of, graph: _Graph
) -> tuple[int | None, tuple[int, ...]]:
    """The layer that a vector follows, stacked as the vector is."""

    def fits(application: int, stack_axes: tuple[int, ...]) -> bool:
        if application not in layer_of:
            return False
        return stacks[layer_of[application]] == tuple(
            shape[axis] for axis in stack_axes
        )

    # The layer that feeds it, most often where there are several uses: at the first
    # step of a recurrent network the state is a constant, and another layer leads.
    feeding = collections.Counter(
        (layer_of[use.leader], use.stack_axes)
        for use in reversed(uses)
        if fits(use.leader, use.stack_axes)
    )
    if feeding:
        return feeding.most_common(1)[0][0]
    for use in uses:  # else the nearest one in the order of execution
        fitting = [index for index in applications if fits(index, use.stack_axes)]
        if fitting:
            nearest = min(fitting, key=lambda index: abs(index - use.leader))
            return layer_of[nearest], use.stack_axes
    return None, uses[0].stack_axes
