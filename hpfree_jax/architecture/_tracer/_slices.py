"""Slices of signals and parameters, and lookups into parameters."""

import dataclasses
import math
from collections.abc import Sequence

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims
from hpfree_jax.architecture._tracer._build import Builder, num_slices
from hpfree_jax.architecture._tracer._equations import Eqn, named, opaque, shape_of
from hpfree_jax.architecture._tracer._values import (
    OUT,
    WHOLE,
    Const,
    Derived,
    Signal,
    Value,
)


def slice_signal(builder, before, after, slices):
    """Notes which part of its node's output a slice of a signal is."""
    produced = [
        entry for entry in slices if OUT in _axes.labels_of(before.dims[entry[0]])
    ]
    after = dataclasses.replace(after, is_direct=False)
    if not produced or before.part != WHOLE:
        return after
    starts = (
        (axis, builder.unique() if start is None else start, size)
        for axis, start, size in produced
    )
    part = (len(before.dims), *starts)
    builder.parts_of(before.node).find(part)
    return dataclasses.replace(after, part=part)


def move_view(builder, eqn, view, shapes, index, starts=()):
    moved = _axes.move(eqn.primitive.name, eqn.params, view.dims, shapes, starts)
    leaf_shape = builder.leaves[view.leaf].shape
    slices = list(view.slices)
    for axis, start, size in moved.slices[index] if moved.slices else ():
        start = builder.unique() if start is None else start
        for label in sorted(_axes.labels_of(view.dims[axis])):
            slices.append((label, start, size))
    indexed = list(view.indexed)
    for axis in sorted(moved.squeezed):
        if leaf_shape[axis] > 1:
            starts_ = [s for a, s, n in slices if a == axis and n == 1]
            indexed.append((axis, starts_[-1] if starts_ else builder.unique()))
            slices = [entry for entry in slices if entry[0] != axis]
    links = list(view.links)
    if moved.reduced:
        links.append((moved.reduced, 0))
    dims = moved.outputs[index]
    labels = NO_LABELS.union(*map(_axes.labels_of, view.dims))
    forgotten = not NO_LABELS.union(*map(_axes.labels_of, dims)) and labels
    lost = view.lost
    if forgotten and not (moved.reduced or moved.squeezed) and math.prod(shapes[0]) > 1:
        lost = lost or named(eqn)
    return dataclasses.replace(
        view,
        dims=dims,
        indexed=tuple(indexed),
        slices=tuple(slices),
        links=tuple(links),
        lost=lost,
    )


def gather(builder: Builder, eqn: Eqn, operand: Value, indices: Value) -> Value:
    numbers = eqn.params["dimension_numbers"]
    out_shape = shape_of(eqn.outvars[0])
    sizes = eqn.params["slice_sizes"]
    if isinstance(operand, Const):
        if isinstance(indices, Signal):  # a fixed table
            return dataclasses.replace(
                indices, dims=_axes.plain(out_shape), part=WHOLE, is_direct=False
            )
        if isinstance(indices, Derived):
            return opaque(eqn, [indices])
        return Const()
    looked_up = [
        axis
        for axis in numbers.start_index_map
        if sizes[axis] < _operand_size(eqn, axis)
    ]
    batching = tuple(numbers.operand_batching_dims)
    kept = [
        axis
        for axis in range(len(sizes))
        if axis not in numbers.collapsed_slice_dims and axis not in batching
    ]
    index_dims = [i for i in range(len(out_shape)) if i not in numbers.offset_dims]

    def place(dims: Dims, looked: bool) -> Dims:
        new = list(_axes.plain(out_shape))
        for position, axis in zip(numbers.offset_dims, kept, strict=True):
            new[position] = _axes.resize(dims[axis], sizes[axis])
        if looked and index_dims and len(looked_up) == 1:
            at = [i for i in index_dims if i not in _batch_positions(eqn, out_shape)]
            if at:
                labels = _axes.labels_of(dims[looked_up[0]])
                new[at[-1]] = ((labels, out_shape[at[-1]]),)
        return tuple(new)

    if isinstance(operand, Signal):
        return dataclasses.replace(
            operand, dims=place(operand.dims, False), is_direct=False
        )
    labels = {
        view.leaf: NO_LABELS.union(
            *(_axes.labels_of(view.dims[axis]) for axis in looked_up)
        )
        for view in operand.views
    }
    if isinstance(indices, Signal):
        views = tuple(
            dataclasses.replace(view, dims=place(view.dims, False))
            for view in operand.views
        )
        stack = {
            view.leaf: NO_LABELS.union(
                *(_axes.labels_of(view.dims[axis]) for axis in batching)
            )
            for view in operand.views
        }
        columns = [
            position
            for position, axis in zip(numbers.offset_dims, kept, strict=True)
            if axis not in looked_up
        ]
        node, index = builder.apply_layer(
            "embedding",
            Derived(views),
            [indices],
            in_dims=[],
            out_dims=columns,
            stack_labels=stack,
            looked_up=labels,
            fan_in=math.prod(_operand_size(eqn, axis) for axis in looked_up),
            fan_out=math.prod(out_shape[i] for i in columns),
            num_inputs=math.prod(
                size for i, size in enumerate(out_shape) if i not in columns
            ),
            num_slices=num_slices(operand, batching),
        )
        dims = tuple(
            ((frozenset({OUT}), size),) if i in columns else ((NO_LABELS, size),)
            for i, size in enumerate(out_shape)
        )
        return Signal(node, dims, leader=index, is_direct=True)
    has_index_axes = any(out_shape[i] > 1 for i in index_dims)
    views = []
    for view in operand.views:
        indexed = view.indexed
        if not has_index_axes:  # one index: picks a slice of a stack
            shape = builder.leaves[view.leaf].shape
            indexed += tuple(
                (axis, builder.unique())
                for axis in sorted(labels[view.leaf])
                if shape[axis] > 1
            )
        views.append(
            dataclasses.replace(
                view, dims=place(view.dims, has_index_axes), indexed=indexed
            )
        )
    is_lookup = has_index_axes and len(views) == 1
    lookup = labels[views[0].leaf] if is_lookup else NO_LABELS
    return Derived(tuple(views), lookup)


def _operand_size(eqn, axis):
    return eqn.invars[0].aval.shape[axis]


def _batch_positions(eqn, out_shape):
    """Axes of a gather's result that are batched, of operand and indices alike."""
    numbers = eqn.params["dimension_numbers"]
    index_dims = [i for i in range(len(out_shape)) if i not in numbers.offset_dims]
    return [index_dims[axis] for axis in numbers.start_indices_batching_dims]


def dynamic_slice(builder: Builder, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    operand, *starts = values
    shape = shape_of(eqn.outvars[0])
    sizes = [_operand_size(eqn, axis) for axis in range(len(shape))]
    known = [start.value if isinstance(start, Const) else None for start in starts]
    if isinstance(operand, Const):
        signals = [start for start in starts if isinstance(start, Signal)]
        if not signals:
            return [Const()]
        return [dataclasses.replace(signals[0], dims=_axes.plain(shape), part=WHOLE)]
    if isinstance(operand, Signal):
        moved = _axes.move("dynamic_slice", {}, operand.dims, [shape], known)
        result = dataclasses.replace(operand, dims=moved.outputs[0])
        return [slice_signal(builder, operand, result, moved.slices[0])]
    moving = [
        axis
        for axis, start in enumerate(starts)
        if isinstance(start, Signal) and shape[axis] < sizes[axis]
    ]
    if not moving:
        views = tuple(
            move_view(builder, eqn, view, [shape], 0, known) for view in operand.views
        )
        return [Derived(views, operand.lookup)]
    columns = [axis for axis in range(len(shape)) if axis not in moving]
    node, index = builder.apply_layer(
        "embedding",
        operand,
        [start for start in starts if isinstance(start, Signal)],
        in_dims=moving,
        out_dims=columns,
        fan_in=math.prod(sizes[axis] for axis in moving),
        fan_out=math.prod(sizes[axis] for axis in columns),
        num_inputs=math.prod(shape[axis] for axis in moving),
    )
    dims = tuple(
        ((frozenset({OUT}), size),) if i in columns else ((NO_LABELS, size),)
        for i, size in enumerate(shape)
    )
    return [Signal(node, dims, leader=index, is_direct=True)]


def constant_lookup(builder: Builder, value: Derived) -> Signal:
    """Makes rows of a parameter that constant indices looked up an embedding layer."""
    (view,) = value.views
    leaf_shape = builder.leaves[view.leaf].shape
    rows = [i for i, dim in enumerate(view.dims) if _axes.labels_of(dim) & value.lookup]
    columns = [i for i in range(len(view.dims)) if i not in rows]
    size = math.prod(leaf_shape[axis] for axis in value.lookup)
    node, index = builder.apply_layer(
        "embedding",
        value,
        [],
        in_dims=rows,
        out_dims=columns,
        looked_up={view.leaf: value.lookup},
        fan_in=size,
        fan_out=math.prod(_axes.size_of(view.dims[i]) for i in columns),
        num_inputs=math.prod(_axes.size_of(view.dims[i]) for i in rows),
    )
    dims = tuple(
        ((frozenset({OUT}), _axes.size_of(dim)),) if i in columns else _plain_dim(dim)
        for i, dim in enumerate(view.dims)
    )
    return Signal(node, dims, leader=index, is_direct=True)


def _plain_dim(dim):
    return ((NO_LABELS, _axes.size_of(dim)),)
