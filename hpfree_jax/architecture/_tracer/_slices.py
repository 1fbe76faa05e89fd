"""Cuts of arrays at indices, and lookups into parameters."""

import dataclasses
import math
from collections.abc import Sequence

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims
from hpfree_jax.architecture._tracer._build import Builder, num_slices
from hpfree_jax.architecture._tracer._equations import Eqn, opaque, shape_of
from hpfree_jax.architecture._tracer._registry import rule
from hpfree_jax.architecture._tracer._structural import move_view, slice_signal
from hpfree_jax.architecture._tracer._values import (
    WHOLE,
    Const,
    Derived,
    Signal,
    View,
    labels_by_leaf,
    replace_views,
    signals_in,
)


class _Lookup:
    """The axes of a ``gather``, and where they lie in its result."""

    def __init__(self, eqn: Eqn):
        numbers = eqn.params["dimension_numbers"]
        self.sizes = eqn.params["slice_sizes"]
        self.shape = shape_of(eqn.invars[0])
        self.out_shape = shape_of(eqn.outvars[0])
        self.batching = tuple(numbers.operand_batching_dims)
        self.looked_up = [
            axis
            for axis in numbers.start_index_map
            if self.sizes[axis] < self.shape[axis]
        ]
        gone = (*numbers.collapsed_slice_dims, *self.batching)
        kept = [axis for axis in range(len(self.sizes)) if axis not in gone]
        self.offsets = list(zip(numbers.offset_dims, kept, strict=True))
        self.index_dims = [
            axis
            for axis in range(len(self.out_shape))
            if axis not in numbers.offset_dims
        ]
        batched = [
            self.index_dims[axis] for axis in numbers.start_indices_batching_dims
        ]
        self.own_index_dims = [i for i in self.index_dims if i not in batched]

    def place(self, dims: Dims, *, show_rows: bool = False) -> Dims:
        """Dims of the result; the rows looked up lie along its last index axis."""
        new = list(_axes.plain(self.out_shape))
        for position, axis in self.offsets:
            new[position] = _axes.resize(dims[axis], self.sizes[axis])
        if show_rows and self.own_index_dims and len(self.looked_up) == 1:
            last = self.own_index_dims[-1]
            labels = _axes.labels_of(dims[self.looked_up[0]])
            new[last] = ((labels, self.out_shape[last]),)
        return tuple(new)


@rule("gather")
def _gather(tracer, eqn, values):
    operand, indices = values
    if isinstance(operand, Const):
        if isinstance(indices, Derived):
            return [opaque(eqn, [indices])]
        dims = _axes.plain(shape_of(eqn.outvars[0]))  # a fixed table
        return [
            dataclasses.replace(indices, dims=dims, part=WHOLE, is_unmodified=False)
        ]
    axes = _Lookup(eqn)
    if isinstance(operand, Signal):
        dims = axes.place(operand.dims)
        return [dataclasses.replace(operand, dims=dims, is_unmodified=False)]
    if isinstance(indices, Signal):
        return [_lookup_layer(tracer.builder, axes, operand, indices)]
    return [_constant_gather(tracer.builder, axes, operand)]


def _lookup_layer(
    builder: Builder, axes: _Lookup, operand: Derived, indices: Signal
) -> Signal:
    columns = [
        position for position, axis in axes.offsets if axis not in axes.looked_up
    ]
    place = lambda view: dataclasses.replace(view, dims=axes.place(view.dims))
    return builder.apply_layer(
        "embedding",
        replace_views(operand, place),
        [indices],
        axes.out_shape,
        columns,
        in_dims=[],
        out_dims=columns,
        stack_labels=labels_by_leaf(operand, axes.batching),
        looked_up=labels_by_leaf(operand, axes.looked_up),
        fan_in=math.prod(axes.shape[axis] for axis in axes.looked_up),
        fan_out=math.prod(axes.out_shape[i] for i in columns),
        num_inputs=math.prod(
            size for i, size in enumerate(axes.out_shape) if i not in columns
        ),
        num_slices=num_slices(operand, axes.batching),
    )


def _constant_gather(builder: Builder, axes: _Lookup, operand: Derived) -> Derived:
    labels = labels_by_leaf(operand, axes.looked_up)
    has_index_axes = any(axes.out_shape[i] > 1 for i in axes.index_dims)

    def look_up(view: View) -> View:
        indexed = view.indexed
        if not has_index_axes:  # one index: picks a slice of a stack
            shape = builder.leaves[view.leaf].shape
            indexed += tuple(
                (axis, builder.unique())
                for axis in sorted(labels[view.leaf])
                if shape[axis] > 1
            )
        dims = axes.place(view.dims, show_rows=has_index_axes)
        return dataclasses.replace(view, dims=dims, indexed=indexed)

    views = tuple(map(look_up, operand.views))
    is_lookup = has_index_axes and len(views) == 1
    return Derived(views, labels[views[0].leaf] if is_lookup else NO_LABELS)


@rule("dynamic_slice")
def _dynamic_slice(tracer, eqn, values):
    builder = tracer.builder
    operand, *starts = values
    shape = shape_of(eqn.outvars[0])
    if isinstance(operand, Const):
        signals = signals_in(starts)
        if not signals:
            return [Const()]
        return [dataclasses.replace(signals[0], dims=_axes.plain(shape), part=WHOLE)]
    known = [start.value if isinstance(start, Const) else None for start in starts]
    if isinstance(operand, Signal):
        moved = _axes.cut(operand.dims, shape, known)
        result = dataclasses.replace(operand, dims=moved.outputs[0])
        return [slice_signal(builder, operand, result, moved.slices[0])]
    sizes = shape_of(eqn.invars[0])
    moving = [
        axis
        for axis, start in enumerate(starts)
        if isinstance(start, Signal) and shape[axis] < sizes[axis]
    ]
    if not moving:
        move = lambda view: move_view(
            builder, eqn, view, _axes.cut(view.dims, shape, known), 0
        )
        return [replace_views(operand, move)]
    columns = [axis for axis in range(len(shape)) if axis not in moving]
    output = builder.apply_layer(
        "embedding",
        operand,
        signals_in(starts),
        shape,
        columns,
        in_dims=moving,
        out_dims=columns,
        fan_in=math.prod(sizes[axis] for axis in moving),
        fan_out=math.prod(sizes[axis] for axis in columns),
        num_inputs=math.prod(shape[axis] for axis in moving),
    )
    return [output]


def look_up_constants(
    builder: Builder, signals: Sequence[Signal], derived: Sequence[Derived]
) -> tuple[list[Signal], list[Derived]]:
    """Rows of parameters that constant indices looked up become signals."""
    looked_up = [_constant_lookup(builder, value) for value in derived if value.lookup]
    return [*signals, *looked_up], [value for value in derived if not value.lookup]


def _constant_lookup(builder: Builder, value: Derived) -> Signal:
    """An embedding layer that no input feeds."""
    (view,) = value.views
    leaf_shape = builder.leaves[view.leaf].shape
    shape = [_axes.size_of(dim) for dim in view.dims]
    rows = [i for i, dim in enumerate(view.dims) if _axes.labels_of(dim) & value.lookup]
    columns = [i for i in range(len(shape)) if i not in rows]
    return builder.apply_layer(
        "embedding",
        value,
        [],
        shape,
        columns,
        in_dims=rows,
        out_dims=columns,
        looked_up={view.leaf: value.lookup},
        fan_in=math.prod(leaf_shape[axis] for axis in value.lookup),
        fan_out=math.prod(shape[i] for i in columns),
        num_inputs=math.prod(shape[i] for i in rows),
    )
