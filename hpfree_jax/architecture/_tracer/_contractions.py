"""Products, convolutions: where a signal meets parameters, a layer begins."""

import dataclasses
import math
from collections.abc import Sequence

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import (
    NO_LABELS,
    PRODUCED,
    Dim,
    Dims,
    Labels,
    labels_along,
)
from hpfree_jax.architecture._tracer._build import Builder, num_slices
from hpfree_jax.architecture._tracer._equations import (
    Eqn,
    opaque,
    shape_of,
    unsupported,
)
from hpfree_jax.architecture._tracer._registry import rule
from hpfree_jax.architecture._tracer._structural import without_rule
from hpfree_jax.architecture._tracer._values import (
    MIXED,
    WHOLE,
    Const,
    Derived,
    Signal,
    Value,
    View,
    are,
    labels_by_leaf,
    latest_dims,
    live,
    replace_views,
    unite,
)


class _Product:
    """The axes of a ``dot_general``; side 0 is the left operand, 1 the right one."""

    def __init__(self, eqn: Eqn):
        self.contracting, self.batch = eqn.params["dimension_numbers"]
        self.shapes = [shape_of(var) for var in eqn.invars]
        self.out_shape = shape_of(eqn.outvars[0])
        self.free = [
            [
                axis
                for axis in range(len(self.shapes[side]))
                if axis not in (*self.contracting[side], *self.batch[side])
            ]
            for side in (0, 1)
        ]
        # Where the free axes of each side lie in the result.
        start, middle = len(self.batch[0]), len(self.batch[0]) + len(self.free[0])
        self.free_positions = [
            range(start, middle),
            range(middle, middle + len(self.free[1])),
        ]

    def place(self, side: int, dims: Dims) -> Dims:
        """The axes of the result that come from one side."""
        new = list(_axes.plain(self.out_shape))
        for position, axis in enumerate(self.batch[side]):
            new[position] = dims[axis]
        for position, axis in zip(
            self.free_positions[side], self.free[side], strict=True
        ):
            new[position] = dims[axis]
        return tuple(new)

    def size(self, side: int, axes: Sequence[int]) -> int:
        """The number of elements along axes of one side."""
        return math.prod(self.shapes[side][axis] for axis in axes)


@rule("dot_general")
def _dot_general(tracer, eqn, values):
    builder, axes = tracer.builder, _Product(eqn)
    kinds = [type(value) for value in values]
    if are(values, Signal):
        return [_signal_by_signal(builder, axes, values)]
    if not are(values, Const, Derived):
        signal = kinds.index(Signal)
        if kinds[1 - signal] is Derived:
            return [_weight_by_signal(builder, axes, values, 1 - signal)]
        dims = axes.place(signal, values[signal].dims)
        return [dataclasses.replace(values[signal], dims=dims, is_unmodified=False)]
    if are(values, Derived):
        return [_weight_by_weight(builder, axes, values)]
    return [_weight_by_constant(axes, values, kinds.index(Derived))]


def _signal_by_signal(
    builder: Builder, axes: _Product, values: Sequence[Signal]
) -> Signal:
    used = live(values)
    pairs = [
        (signal, axes.place(side, signal.dims))
        for side, signal in enumerate(values)
        if signal in used
    ]
    dims = latest_dims(pairs, axes.out_shape)
    return builder.join_signals(used, dims, is_product=True)


def _weight_by_signal(
    builder: Builder, axes: _Product, values: Sequence[Value], side: int
) -> Signal:
    """A layer; ``side`` is that of the weights."""
    value, signal = values[side], values[1 - side]
    assert isinstance(value, Derived)
    assert isinstance(signal, Signal)
    free, batch = axes.free[side], axes.batch[side]
    units = axes.size(side, free)
    if len(value.views) == 1:  # a weight that is repeated meets more inputs
        units = math.prod(_axes.known_size(value.views[0].dims[i]) for i in free)
    output = builder.apply_layer(
        "embedding" if signal.is_one_hot else "dense",
        value,
        [signal],
        axes.out_shape,
        axes.free_positions[side],
        in_dims=axes.contracting[side],
        out_dims=free,
        stack_labels=labels_by_leaf(value, batch),
        fan_in=axes.size(side, axes.contracting[side]),
        fan_out=axes.size(side, free),
        num_inputs=math.prod(axes.out_shape) // max(units, 1),
        num_slices=num_slices(value, batch),
    )
    stacks = [_main_view(builder, output, value).dims[axis] for axis in batch]
    return dataclasses.replace(output, dims=(*stacks, *output.dims[len(stacks) :]))


def _main_view(builder: Builder, output: Signal, value: Derived) -> View:
    """How the leaf that names a layer enters its weights."""
    leaf = builder.applications[output.leader].roles[0].leaf
    return next(view for view in value.views if view.leaf == leaf)


def _weight_by_weight(
    builder: Builder, axes: _Product, values: Sequence[Derived]
) -> Derived:
    """A product of parameters; the axes summed over link the two."""
    link = -builder.unique()
    views: list[View] = []
    for side, value in enumerate(values):
        for view in value.views:
            contracted = labels_along(view.dims, axes.contracting[side])
            links = (*view.links, (contracted, link)) if contracted else view.links
            dims = axes.place(side, view.dims)
            views.append(dataclasses.replace(view, dims=dims, links=links))
    return Derived(unite(views))


def _weight_by_constant(axes: _Product, values: Sequence[Value], side: int) -> Derived:
    """Parameters mixed by a constant; ``side`` is that of the parameters."""
    value = values[side]
    assert isinstance(value, Derived)
    positions = axes.free_positions[1 - side]

    def mix(view: View) -> View:
        contracted = labels_along(view.dims, axes.contracting[side])
        dims, links = list(axes.place(side, view.dims)), view.links
        if contracted and not positions:
            links = (*links, (contracted, 0))
        elif contracted:  # the free axes of the constant stand for the axis it mixes
            for position in positions:
                dims[position] = ((contracted, axes.out_shape[position]),)
        return dataclasses.replace(
            view, dims=tuple(dims), links=links, fed=view.fed | contracted
        )

    return Derived(unite(list(map(mix, value.views))))


@rule("ragged_dot_general")
def _ragged_dot(tracer, eqn, values):
    """A bank of experts, each applied to the rows that belong to it."""
    lhs, rhs, *_ = values
    if not isinstance(rhs, Derived):
        return without_rule(tracer, eqn, values)
    if not isinstance(lhs, Signal):
        return [opaque(eqn, [lhs, rhs])]
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracting), (_, batch) = numbers.dot_dimension_numbers
    groups = (*numbers.rhs_group_dimensions, *batch)
    if not groups:
        raise unsupported(eqn, "its groups are no axis of the parameter.")
    shape, out_shape = shape_of(eqn.invars[1]), shape_of(eqn.outvars[0])
    free = [i for i in range(len(shape)) if i not in (*contracting, *groups)]
    fan_out = math.prod(shape[axis] for axis in free)
    rank = len(out_shape)
    output = tracer.builder.apply_layer(
        "dense",
        rhs,
        [lhs],
        out_shape,
        range(rank - len(free), rank),
        in_dims=contracting,
        out_dims=free,
        stack_labels=labels_by_leaf(rhs, groups),
        fan_in=math.prod(shape[axis] for axis in contracting),
        fan_out=fan_out,
        num_inputs=math.prod(out_shape) // max(fan_out, 1),
        num_slices=num_slices(rhs, groups),
    )
    return [output]


@rule("conv_general_dilated")
def _conv(tracer, eqn, values):
    lhs, rhs = values
    dims = _axes.plain(shape_of(eqn.outvars[0]))
    if are(values, Signal):
        used = [side for side in values if not side.blocks_gradient] or [lhs]
        result = tracer.builder.join_signals(used, dims, is_product=True)
        part = MIXED if len({signal.node for signal in used}) == 1 else WHOLE
        return [dataclasses.replace(result, part=part, blocks_gradient=False)]
    if isinstance(lhs, Signal) and isinstance(rhs, Const):
        return [dataclasses.replace(lhs, dims=dims, is_unmodified=False)]
    if isinstance(lhs, Signal):
        return [_conv_layer(tracer.builder, eqn, lhs, rhs)]
    if isinstance(rhs, Signal):
        raise unsupported(
            eqn,
            "the signal is the kernel and a parameter is the input. Swap the operands.",
        )
    return [opaque(eqn, values)]


def _conv_layer(builder: Builder, eqn: Eqn, lhs: Signal, rhs: Derived) -> Signal:
    if eqn.params["batch_group_count"] != 1:
        raise unsupported(eqn, "a convolution with `batch_group_count` above 1.")
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    out_dim, in_dim, *positions = numbers.rhs_spec
    shape, out_shape = shape_of(eqn.invars[1]), shape_of(eqn.outvars[0])
    window = math.prod(shape[axis] for axis in positions)
    stack = {view.leaf: _stacked_groups(view, out_dim, groups) for view in rhs.views}
    stack_sizes = [
        math.prod(builder.leaves[leaf].shape[axis] for axis in labels)
        for leaf, labels in stack.items()
    ]

    def without_stack(view: View) -> View:
        dims = list(view.dims)
        dims[out_dim] = tuple(
            (NO_LABELS if labels <= stack[view.leaf] else labels, size)
            for labels, size in dims[out_dim]
        )
        return dataclasses.replace(view, dims=tuple(dims))

    features = numbers.out_spec[1]
    output = builder.apply_layer(
        "conv",
        replace_views(rhs, without_stack),
        [lhs],
        out_shape,
        [features],
        in_dims=[in_dim],
        out_dims=[out_dim],
        position_dims=sorted(positions),
        stack_labels=stack,
        fan_in=shape[in_dim] * window,
        fan_out=shape[out_dim] // groups * window,
        num_inputs=math.prod(out_shape) // max(shape[out_dim], 1),
        num_groups=max(groups // max(stack_sizes), 1),
    )
    view = _main_view(builder, output, rhs)
    dims = list(output.dims)
    dims[features] = _out_features(view.dims[out_dim], stack[view.leaf])
    return dataclasses.replace(output, dims=tuple(dims))


def _stacked_groups(view: View, out_dim: int, groups: int) -> Labels:
    """Axes of a leaf that vmap has merged into the groups of a convolution."""
    factors = view.dims[out_dim]
    if groups == 1 or len(factors) < 2:
        return NO_LABELS
    labels, size = factors[0]
    return labels if groups % size == 0 else NO_LABELS


def _out_features(dim: Dim, stack: Labels) -> Dim:
    """The feature axis of a convolution's output: stacked kernels, then features."""
    return tuple(
        (labels if labels and labels <= stack else PRODUCED, size)
        for labels, size in dim
    )
