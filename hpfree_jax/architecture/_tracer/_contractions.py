"""Products, convolutions: where a signal meets parameters, a layer begins."""

import dataclasses
import math

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims
from hpfree_jax.architecture._tracer._build import Builder, num_slices
from hpfree_jax.architecture._tracer._equations import (
    Eqn,
    opaque,
    shape_of,
    unsupported,
)
from hpfree_jax.architecture._tracer._values import (
    MIXED,
    OUT,
    WHOLE,
    Const,
    Derived,
    Signal,
    Value,
    View,
    unite,
)


def dot_general(builder: Builder, eqn: Eqn, lhs: Value, rhs: Value) -> Value:
    contracting, batch = eqn.params["dimension_numbers"]
    sides = [lhs, rhs]
    shapes = [shape_of(var) for var in eqn.invars]
    free = [
        [
            i
            for i in range(len(shapes[s]))
            if i not in contracting[s] and i not in batch[s]
        ]
        for s in (0, 1)
    ]
    out_shape = shape_of(eqn.outvars[0])
    num_batch = len(batch[0])
    # Where each axis of a side lands in the result.
    first_free = [num_batch, num_batch + len(free[0])]

    def place(side: int, dims: Dims) -> Dims:
        new = list(_axes.plain(out_shape))
        for position, axis in enumerate(batch[side]):
            new[position] = dims[axis]
        for position, axis in enumerate(free[side], start=first_free[side]):
            new[position] = dims[axis]
        return tuple(new)

    if isinstance(lhs, Signal) and isinstance(rhs, Signal):
        live = [side for side in (lhs, rhs) if not side.is_discrete] or [lhs, rhs]
        node = builder.join(live)
        same = len({signal.node for signal in live}) == 1
        leader = max(signal.leader for signal in live)
        part = builder.combine_parts(live, is_product=True) if same else WHOLE
        dims = _axes.plain(out_shape)
        for side, signal in enumerate((lhs, rhs)):
            if signal in live and signal.leader == leader:
                dims = _axes.merge(dims, place(side, signal.dims))
        return Signal(
            node,
            dims,
            leader,
            part,
            is_discrete=all(signal.is_discrete for signal in live),
        )

    for weights, other in ((0, 1), (1, 0)):
        value, signal = sides[weights], sides[other]
        if isinstance(value, Derived) and isinstance(signal, Signal):
            kind = "embedding" if signal.is_one_hot else "dense"
            size = lambda axes, s=weights: math.prod(shapes[s][axis] for axis in axes)
            units = size(free[weights])
            if len(value.views) == 1:  # a weight that is repeated meets more inputs
                (view,) = value.views
                units = math.prod(_axes.known_size(view.dims[i]) for i in free[weights])
            node, index = builder.apply_layer(
                kind,
                value,
                [signal],
                in_dims=contracting[weights],
                out_dims=free[weights],
                stack_labels={
                    view.leaf: NO_LABELS.union(
                        *(_axes.labels_of(view.dims[axis]) for axis in batch[weights])
                    )
                    for view in value.views
                },
                fan_in=size(contracting[weights]),
                fan_out=size(free[weights]),
                num_inputs=math.prod(out_shape) // max(units, 1),
                num_slices=num_slices(value, batch[weights]),
            )
            dims = list(_axes.plain(out_shape))
            for position, axis in enumerate(batch[weights]):
                dims[position] = _stack_dim(builder, index, value, axis)
            for position in range(len(free[weights])):
                at = first_free[weights] + position
                dims[at] = ((frozenset({OUT}), out_shape[at]),)
            return Signal(node, tuple(dims), leader=index, is_direct=True)

    for weights, other in ((0, 1), (1, 0)):  # a constant times a signal
        signal = sides[other]
        if isinstance(sides[weights], Const) and isinstance(signal, Signal):
            return dataclasses.replace(
                signal, dims=place(other, signal.dims), is_direct=False
            )

    views: list[View] = []
    both = isinstance(lhs, Derived) and isinstance(rhs, Derived)
    link = -builder.unique() if both else 0
    for side in (0, 1):
        value = sides[side]
        if not isinstance(value, Derived):
            continue
        for view in value.views:
            contracted = NO_LABELS.union(
                *(_axes.labels_of(view.dims[axis]) for axis in contracting[side])
            )
            dims = list(place(side, view.dims))
            links = view.links
            fed = view.fed if both else view.fed | contracted
            if not both and contracted and free[1 - side]:
                # The constant mixes an axis: its own free axes stand for it.
                for position in range(len(free[1 - side])):
                    at = first_free[1 - side] + position
                    dims[at] = ((contracted, out_shape[at]),)
            elif contracted:
                links = (*links, (contracted, link))
            views.append(
                dataclasses.replace(view, dims=tuple(dims), links=links, fed=fed)
            )
    return Derived(unite(views))


def _stack_dim(builder, index, value, axis):
    """An axis of a layer's output along which its weights are stacked."""
    leaf = builder.applications[index].roles[0].leaf
    view = next(view for view in value.views if view.leaf == leaf)
    return view.dims[axis]


def ragged_dot(builder: Builder, eqn: Eqn, lhs: Value, rhs: Derived) -> Value:
    """A bank of experts, each applied to the rows that belong to it."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracting), (_, batch) = numbers.dot_dimension_numbers
    groups = (*numbers.rhs_group_dimensions, *batch)
    if not isinstance(lhs, Signal):
        return opaque(eqn, [lhs, rhs])
    if not groups:
        raise unsupported(eqn, "its groups are no axis of the parameter.")
    shape, out_shape = shape_of(eqn.invars[1]), shape_of(eqn.outvars[0])
    free = [i for i in range(len(shape)) if i not in (*contracting, *groups)]
    fan_out = math.prod(shape[axis] for axis in free)
    node, index = builder.apply_layer(
        "dense",
        rhs,
        [lhs],
        in_dims=contracting,
        out_dims=free,
        stack_labels={
            view.leaf: NO_LABELS.union(
                *(_axes.labels_of(view.dims[axis]) for axis in groups)
            )
            for view in rhs.views
        },
        fan_in=math.prod(shape[axis] for axis in contracting),
        fan_out=fan_out,
        num_inputs=math.prod(out_shape) // max(fan_out, 1),
        num_slices=num_slices(rhs, groups),
    )
    dims = list(_axes.plain(out_shape))
    for i in range(len(free)):
        at = len(dims) - len(free) + i
        dims[at] = ((frozenset({OUT}), out_shape[at]),)
    return Signal(node, tuple(dims), leader=index, is_direct=True)


def conv(builder: Builder, eqn: Eqn, lhs: Value, rhs: Value) -> Value:
    numbers = eqn.params["dimension_numbers"]
    out_shape = shape_of(eqn.outvars[0])
    groups = eqn.params["feature_group_count"]
    if isinstance(lhs, Signal) and isinstance(rhs, Signal):
        live = [side for side in (lhs, rhs) if not side.is_discrete] or [lhs]
        return Signal(
            builder.join(live),
            _axes.plain(out_shape),
            max(signal.leader for signal in live),
            MIXED if len({s.node for s in live}) == 1 else WHOLE,
        )
    if isinstance(lhs, Signal) and isinstance(rhs, Const):
        return dataclasses.replace(lhs, dims=_axes.plain(out_shape), is_direct=False)
    if isinstance(lhs, Signal) and isinstance(rhs, Derived):
        if eqn.params["batch_group_count"] != 1:
            raise unsupported(eqn, "a convolution with `batch_group_count` above 1.")
        out_dim, in_dim, *positions = numbers.rhs_spec
        shape = shape_of(eqn.invars[1])
        window = math.prod(shape[axis] for axis in positions)
        stack = {
            view.leaf: _stacked_groups(view, out_dim, groups) for view in rhs.views
        }
        views = tuple(
            dataclasses.replace(
                view, dims=_without(view.dims, out_dim, stack[view.leaf])
            )
            for view in rhs.views
        )
        num_stacked = max(
            (
                math.prod(builder.leaves[leaf].shape[axis] for axis in labels)
                for leaf, labels in stack.items()
            ),
            default=1,
        )
        node, index = builder.apply_layer(
            "conv",
            Derived(views),
            [lhs],
            in_dims=[in_dim],
            out_dims=[out_dim],
            position_dims=sorted(positions),
            stack_labels=stack,
            fan_in=shape[in_dim] * window,
            fan_out=shape[out_dim] // groups * window,
            num_inputs=math.prod(out_shape) // max(shape[out_dim], 1),
            num_groups=max(groups // num_stacked, 1),
        )
        dims = list(_axes.plain(out_shape))
        features = numbers.out_spec[1]
        main = builder.applications[index].roles[0].leaf
        kept = next(view.dims[out_dim] for view in rhs.views if view.leaf == main)
        dims[features] = tuple(
            (labels if labels <= stack[main] and labels else frozenset({OUT}), size)
            for labels, size in kept
        )
        return Signal(node, tuple(dims), leader=index, is_direct=True)
    if isinstance(rhs, Signal):
        raise unsupported(
            eqn,
            "the signal is the kernel and a parameter is the input. Swap the operands.",
        )
    return opaque(eqn, [lhs, rhs])


def _stacked_groups(view: View, out_dim: int, groups: int):
    """Axes of a leaf that vmap has merged into the groups of a convolution."""
    factors = view.dims[out_dim]
    if groups == 1 or len(factors) < 2:
        return NO_LABELS
    labels, size = factors[0]
    return labels if groups % size == 0 else NO_LABELS


def _without(dims: Dims, axis: int, labels) -> Dims:
    new = list(dims)
    new[axis] = tuple(
        (NO_LABELS if found <= labels else found, size) for found, size in dims[axis]
    )
    return tuple(new)
