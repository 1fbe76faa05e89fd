"""Turns the raw graph into an :class:`Architecture`: what needs the whole graph."""

import collections
import dataclasses

from hpfree_jax.architecture._architecture import Architecture
from hpfree_jax.architecture._graph import (
    Layer,
    LeafAxes,
    Node,
    VectorLeaf,
    VectorRole,
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
    graph = _Graph(_merge_sums(builder, live), set(builder.outputs))
    groups = _uses_of_layers(applications)
    layer_of = {index: number for number, uses in enumerate(groups) for index in uses}
    layers = _layers(builder, graph, applications, groups)
    vectors = _vectors(
        builder,
        [use for use in vector_uses if use.leaf not in matrices],
        _Leaders(builder, applications, layers, layer_of),
    )
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    return Architecture(
        nodes=tuple(
            _node(raw, numbers, applications, layer_of) for raw in graph.nodes.values()
        ),
        outputs=tuple(numbers[node] for node in numbers if node in graph.outputs),
        layers=layers,
        vectors=vectors,
        leaves=tuple(
            (leaf.path, leaf.shape) for leaf in builder.leaves if leaf.is_inexact
        ),
        returned_leaves=_returned_leaves(builder, matrices, vectors),
    )


def _uses_of_layers(applications: dict[int, Application]) -> list[list[int]]:
    """The applications of each layer: those of the same leaves."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, application in applications.items():
        key = tuple(sorted(role.leaf for role in application.roles))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _returned_leaves(
    builder: Builder, matrices: set[int], vectors: tuple[VectorLeaf, ...]
) -> tuple[str, ...]:
    known = {vector.path for vector in vectors}
    paths = (builder.leaves[leaf].path for leaf in sorted(builder.read - matrices))
    return tuple(path for path in paths if path not in known)


def _node(
    raw: RawNode,
    numbers: dict[int, int],
    applications: dict[int, Application],
    layer_of: dict[int, int],
) -> Node:
    application = applications.get(raw.application)
    return Node(
        kind=raw.kind,
        preds=tuple(numbers[pred] for pred in raw.preds),
        layer=layer_of.get(raw.application, -1),
        fan_in=application.fan_in if application else 0,
        label=raw.label,
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
        for pred, unmodified in zip(raw.preds, raw.unmodified, strict=True):
            is_partial = (
                unmodified
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

    def __init__(self, nodes: dict[int, RawNode], outputs: set[int]):
        self.nodes, self.users, self.outputs = nodes, _users(nodes), outputs

    def sum_of(self, node: int) -> int | None:
        """The sum that is the only use of a node, if there is one."""
        if node in self.outputs or len(self.users[node]) != 1:
            return None
        (user,) = self.users[node]
        return user if self.nodes[user].kind == "sum" else None

    def sum_of_layers(self, node: int) -> int | None:
        """The sum of a layer's output with nothing but layers' outputs, if any."""
        target = self.sum_of(node)
        if target is None or not all(
            self.nodes[pred].kind == "layer" and self.sum_of(pred) == target
            for pred in self.nodes[target].preds
        ):
            return None
        return target

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
            if self.nodes[output].kind != "layer":
                found |= self._combined_layers(output) or set()
            elif not self.users[output]:
                found.add(output)
        return found

    def _combined_layers(self, node: int) -> set[int] | None:
        """The layers that are summed and joined to a node, None if anything else is.

        Neither they nor the partial results may have another use.
        """
        layers, queue = set(), list(self.nodes[node].preds)
        while queue:
            pred = queue.pop()
            raw = self.nodes[pred]
            if len(self.users[pred]) != 1 or raw.kind == "input":
                return None
            if raw.kind == "layer":
                layers.add(pred)
            else:
                queue.extend(raw.preds)
        return layers

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


def _layers(
    builder: Builder,
    graph: _Graph,
    applications: dict[int, Application],
    groups: list[list[int]],
) -> tuple[Layer, ...]:
    readouts = graph.readouts()
    blocks = graph.residual_blocks(applications)
    return tuple(
        _layer([applications[i] for i in group], builder, graph, readouts, blocks)
        for group in groups
    )


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
            LeafAxes(builder.leaves[leaf].path, *axes)
            for leaf, *axes in map(dataclasses.astuple, first.roles)
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
        slices = (entry for entry in app.slice_key if len(entry) == 3)
        cuts[indexed].add(tuple(entry for entry in slices if entry[0] in out_axes))
        for node in (app.node, graph.sum_of_layers(app.node)):
            if node in builder.parts and node not in builder.used_whole:
                most = max(most, builder.parts[node].count)
    return max(most, *map(len, cuts.values()))


def _vectors(
    builder: Builder, vector_uses: list[VectorUse], leaders: "_Leaders"
) -> tuple[VectorLeaf, ...]:
    uses: dict[int, list[VectorUse]] = {}
    for use in vector_uses:
        uses.setdefault(use.leaf, []).append(use)
    vectors = []
    for index, found in sorted(uses.items()):
        leaf, contracted = builder.leaves[index], found[0].contracted
        leader, stack_axes = leaders.leader_of(found, leaf.shape)
        scales: list[VectorRole] = [use.role for use in found if use.role != "shift"]
        vectors.append(
            VectorLeaf(
                path=leaf.path,
                leader=leader,
                stack_axes=stack_axes,
                role=scales[0] if scales else "shift",
                is_offset=any(use.is_offset for use in found),
                in_axes=tuple(sorted(contracted))
                if len(leaf.shape) > len(contracted)
                else (),
            )
        )
    return tuple(vectors)


class _Leaders:
    """Finds the layer that a vector follows, stacked as the vector is."""

    def __init__(
        self,
        builder: Builder,
        applications: dict[int, Application],
        layers: tuple[Layer, ...],
        layer_of: dict[int, int],
    ):
        shapes = {leaf.path: leaf.shape for leaf in builder.leaves}
        self.paths = [layer.path for layer in layers]
        self.stacks = [
            tuple(shapes[layer.path][axis] for axis in layer.stack_axes)
            for layer in layers
        ]
        self.applications, self.layer_of = applications, layer_of

    def _fits(self, application: int, stack: tuple[int, ...]) -> bool:
        layer = self.layer_of.get(application)
        return layer is not None and self.stacks[layer] == stack

    def leader_of(
        self, uses: list[VectorUse], shape: tuple[int, ...]
    ) -> tuple[str | None, tuple[int, ...]]:
        """The path of the leader, or None, and the axes that stack both."""
        stacks = [tuple(shape[axis] for axis in use.stack_axes) for use in uses]
        # The layer that feeds it, most often where there are several uses: at the
        # first step of a recurrent network the state is a constant, and another layer
        # leads.
        feeding = collections.Counter(
            (self.layer_of[use.leader], use.stack_axes)
            for use, stack in zip(reversed(uses), reversed(stacks), strict=True)
            if self._fits(use.leader, stack)
        )
        if feeding:
            layer, stack_axes = feeding.most_common(1)[0][0]
            return self.paths[layer], stack_axes
        for use, stack in zip(uses, stacks, strict=True):
            fitting = [i for i in self.applications if self._fits(i, stack)]
            if fitting:  # the nearest one in the order of execution
                nearest = min(fitting, key=lambda index: abs(index - use.leader))
                return self.paths[self.layer_of[nearest]], use.stack_axes
        return None, uses[0].stack_axes
