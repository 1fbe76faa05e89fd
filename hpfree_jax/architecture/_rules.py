"""What each primitive of a jaxpr does to constants, parameters and signals."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core, source_info_util

from hpfree_jax.architecture import _axes
from hpfree_jax.architecture._axes import NO_LABELS, Dims
from hpfree_jax.architecture._build import Builder
from hpfree_jax.architecture._values import (
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

Eqn = core.JaxprEqn
LIBRARIES = {"jax", "flax", "equinox", "haiku", "hpfree_jax", "contextlib"}

SUMS = {"add", "sub", "add_any"}
PRODUCTS = {"mul", "div"}
# Primitives that combine arrays element by element and may mix signals and parameters.
ELEMENTWISE = SUMS | PRODUCTS | {"max", "min", "pow", "rem", "atan2", "nextafter"}
ELEMENTWISE |= {"clamp", "complex", "select_n", "and", "or", "xor"}
ELEMENTWISE |= {"eq", "ne", "lt", "le", "gt", "ge", "eq_to", "le_to", "lt_to"}
# Draw random numbers: what they return is noise, even where the key is an input.
RANDOM = {
    "random_bits",
    "random_seed",
    "random_wrap",
    "random_unwrap",
    "random_split",
    "random_fold_in",
    "random_gamma",
    "random_clone",
    "threefry2x32",
    "rng_bit_generator",
    "rng_uniform",
}
# One array in, one out, and all axes stay in place or move in a known way.
STRUCTURAL = {
    "transpose",
    "reshape",
    "broadcast_in_dim",
    "squeeze",
    "slice",
    "dynamic_slice",
    "split",
    "pad",
    "tile",
    "unstack",
}
# One array in, one of the same shape out, element by element.
MAPS = {"abs", "cbrt", "ceil", "conj", "convert_element_type", "copy", "cos", "cosh"}
MAPS |= {"device_put", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor"}
MAPS |= {"imag", "integer_pow", "is_finite", "log", "log1p", "logistic", "name", "neg"}
MAPS |= {"not", "optimization_barrier", "real", "reduce_precision", "rev", "round"}
MAPS |= {"rsqrt", "sharding_constraint", "sign", "sin", "sinh", "sqrt", "square"}
MAPS |= {"stop_gradient", "tan", "tanh", "acos", "acosh", "asin", "asinh", "atan"}
MAPS |= {"cummax", "cummin", "cumprod", "cumsum"}
MAPS |= {"atanh", "bitcast_convert_type", "lgamma", "digamma", "reshard"}
# The values of a sum, up to scaling, pass through these unchanged.
DIRECT = {"transpose", "reshape", "squeeze", "broadcast_in_dim", "neg", "copy"}
DIRECT |= {"convert_element_type", "reduce_precision", "sharding_constraint"}
DIRECT |= {"optimization_barrier", "name", "stop_gradient", "device_put"}


def apply_rule(builder: Builder, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    """The values of the results of an equation that holds no jaxpr of its own."""
    name = eqn.primitive.name
    if all(isinstance(value, Const) for value in values):
        return _constants(eqn, values)
    if name in RANDOM:
        return [Const() for _ in eqn.outvars]
    match name:
        case "dot_general":
            return [_dot_general(builder, eqn, *values)]
        case "ragged_dot_general" if isinstance(bank := values[1], Derived):
            return [_ragged_dot(builder, eqn, values[0], bank)]
        case "conv_general_dilated":
            return [_conv(builder, eqn, *values)]
        case "gather":
            return [_gather(builder, eqn, *values)]
        case "dynamic_slice":
            return _dynamic_slice(builder, eqn, values)
        case "optimization_barrier" | "tie":
            return list(values[-len(eqn.outvars) :])
        case "concatenate" | "stack":
            return [_concatenate(builder, eqn, values)]
        case "dynamic_update_slice":
            return [_combine(builder, eqn, values[:2])]
    if name.startswith("scatter"):
        return [_combine(builder, eqn, [values[0], values[2]])]
    if name == "select_n":
        return [_combine(builder, eqn, values[1:])]
    if name in ELEMENTWISE:
        return [_combine(builder, eqn, values)]
    if name == "pad":
        return _unary(builder, eqn, values[0], values[1:])
    if len(values) == 1:
        return _unary(builder, eqn, values[0])
    return _unknown(builder, eqn, values)


def shape_of(var: Any) -> tuple[int, ...]:
    """The shape of a variable of a jaxpr."""
    return tuple(var.aval.shape)


def where(eqn: Eqn) -> str:
    """The user's source line of an equation, or "" where it is not known.

    The innermost line outside of JAX, of the libraries of layers, and of this one.
    """
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        parts = frame.file_name.replace("\\", "/").split("/")
        if not any(part in LIBRARIES for part in parts[:-1]):
            return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    found = source_info_util.summarize(eqn.source_info)
    return "" if any(f"/{name}/" in found for name in LIBRARIES) else found


class UntraceableError(NotImplementedError):
    """What cannot be analysed; names the primitive and the user's source line."""

    def __init__(self, primitive: str, line: str, why: str):
        at = f" at {line}" if line else ""
        super().__init__(
            f"The architecture cannot be traced through the primitive `{primitive}`"
            f"{at}: {why}"
        )
        self.primitive, self.line, self.why = primitive, line, why

    def inside(self, eqn: Eqn) -> "UntraceableError":
        """The same error, at the line of the call where its own line is not known."""
        if self.line:
            return self
        return UntraceableError(self.primitive, where(eqn), self.why)


def unsupported(eqn: Eqn, why: str) -> UntraceableError:
    """The error that names an equation's primitive and source line."""
    return UntraceableError(eqn.primitive.name, where(eqn), why)


def _named(eqn: Eqn) -> str:
    line = where(eqn)
    return f"`{eqn.primitive.name}`" + (f" at {line}" if line else "")


# --- constants ------------------------------------------------------------------------


def _constants(eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    name = eqn.primitive.name
    if name == "iota":
        return [Const(is_iota=True)]
    kept = ("broadcast_in_dim", "reshape", "convert_element_type", "add", "sub", "mul")
    is_iota = name in kept and any(value.is_iota for value in values)  # type: ignore
    known = [value.value for value in values]  # type: ignore[union-attr]
    value = None
    if values and None not in known and all(shape_of(var) == () for var in eqn.outvars):
        value = _evaluate(name, known)
    return [Const(value, is_iota) for _ in eqn.outvars]


def _evaluate(name: str, known: list[Any]) -> int | None:
    match name, known:
        case "add", [a, b]:
            return a + b
        case "sub", [a, b]:
            return a - b
        case "mul", [a, b]:
            return a * b
        case "lt", [a, b]:
            return int(a < b)
        case "max", [a, b]:
            return max(a, b)
        case "min", [a, b]:
            return min(a, b)
        case "clamp", [low, a, high]:
            return min(max(a, low), high)
        case "select_n", [which, *cases]:
            return cases[which] if which < len(cases) else None
        case "convert_element_type" | "copy" | "squeeze" | "reshape", [a]:
            return a
    return None


# --- one array ------------------------------------------------------------------------


def _unary(
    builder: Builder, eqn: Eqn, value: Value, others: Sequence[Value] = ()
) -> list[Value]:
    name = eqn.primitive.name
    if any(not isinstance(other, Const) for other in others):
        return _unknown(builder, eqn, [value, *others])
    if isinstance(value, Const):
        return [Const() for _ in eqn.outvars]
    shapes = [shape_of(var) for var in eqn.outvars]
    if isinstance(value, Derived):
        if name not in STRUCTURAL | MAPS and not name.startswith(("reduce_", "argm")):
            return [_opaque(eqn, [value], var) for var in eqn.outvars]
        return _unary_derived(builder, eqn, value, shapes)
    moved = _axes.move(name, eqn.params, value.dims, shapes)
    results: list[Value] = []
    for index, var in enumerate(eqn.outvars):
        result = _with_dtype(value, var, moved.outputs[index])
        if _is_rounded(eqn, var):
            result = dataclasses.replace(result, is_discrete=True)
        if moved.slices and not isinstance(var, core.DropVar):
            result = _slice_signal(builder, value, result, moved.slices[index])
        elif name not in DIRECT:
            result = dataclasses.replace(result, is_direct=False)
        results.append(result)
    return results


def _is_rounded(eqn: Eqn, var: Any) -> bool:
    """Whether floats go in and integers come out: no derivative passes."""
    source = eqn.invars[0].aval.dtype  # type: ignore[union-attr]
    return jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(
        var.aval.dtype, jnp.integer
    )


def _slice_signal(builder, before, after, slices):
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


def _unary_derived(builder, eqn, value, shapes):
    name = eqn.primitive.name
    results = []
    for index in range(len(eqn.outvars)):
        views = tuple(
            _move_view(builder, eqn, view, shapes, index) for view in value.views
        )
        results.append(dataclasses.replace(value, views=views))
    if name in ("integer_pow", "exp", "tanh", "logistic"):  # 1 + x is then no scale
        results = [
            dataclasses.replace(
                result,
                views=tuple(
                    dataclasses.replace(v, is_offset=False) for v in result.views
                ),
            )
            for result in results
        ]
    return results


def _move_view(builder, eqn, view, shapes, index, starts=()):
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
        lost = lost or _named(eqn)
    return dataclasses.replace(
        view,
        dims=dims,
        indexed=tuple(indexed),
        slices=tuple(slices),
        links=tuple(links),
        lost=lost,
    )


# --- elementwise combinations ---------------------------------------------------------


def _combine(builder: Builder, eqn: Eqn, values: Sequence[Value]) -> Value:
    """Adds, multiplies, selects, ...: stays in the node, sums nodes, or joins them."""
    name = eqn.primitive.name
    signals = [value for value in values if isinstance(value, Signal)]
    derived = [value for value in values if isinstance(value, Derived)]
    shape = shape_of(eqn.outvars[0])
    if not signals:
        if not derived:
            return Const()
        has_constant = len(derived) < len(values) and name in SUMS
        views = unite([view for value in derived for view in value.views])
        views = tuple(
            dataclasses.replace(
                view,
                is_offset=view.is_offset or has_constant,
                dims=_axes.fit(view.dims, shape),
            )
            for view in views
        )
        lookup = NO_LABELS.union(*(value.lookup for value in derived))
        return Derived(views, lookup if len(views) == 1 else NO_LABELS)

    for value in [value for value in derived if value.lookup]:
        signals.append(_constant_lookup(builder, value))
        derived.remove(value)
    live = [signal for signal in signals if not signal.is_discrete] or signals
    nodes = {signal.node for signal in live}
    is_direct = all(signal.is_direct for signal in live)
    if len(nodes) == 1:
        is_product = name in PRODUCTS and len(live) > 1
        part = builder.combine_parts(live, is_product=is_product)
        node = live[0].node
        is_direct &= name in SUMS or (name in PRODUCTS and len(live) == 1)
        if name == "div" and not isinstance(values[0], Signal):
            is_direct = False
    elif name in SUMS and not any(signal.is_discrete for signal in live):
        node = builder.sum(live)
        part, is_direct = WHOLE, True
    else:
        node, part, is_direct = builder.join(live), WHOLE, False
    one_hot = name == "eq" and any(
        isinstance(value, Const) and value.is_iota for value in values
    )
    result = _with_dtype(
        Signal(
            node,
            _merged_dims(live, shape),
            leader=max(signal.leader for signal in live),
            part=part,
            is_discrete=all(signal.is_discrete for signal in live),
            is_one_hot=one_hot or all(signal.is_one_hot for signal in live),
            is_direct=is_direct,
        ),
        eqn.outvars[0],
    )
    for value in derived:
        how = "scale" if name in PRODUCTS else "shift"
        builder.use_vectors(
            value,
            dataclasses.replace(
                live[0], dims=result.dims, leader=max(s.leader for s in live)
            ),
            how,
        )
    return result


def _merged_dims(signals: Sequence[Signal], shape: Sequence[int]) -> Dims:
    leader = max(signal.leader for signal in signals)
    dims = _axes.plain(shape)
    for signal in signals:
        if signal.leader == leader and len(signal.dims) == len(shape):
            dims = _axes.merge(dims, signal.dims)
    return dims


def _with_dtype(signal: Signal, var: Any, dims: Dims | None = None) -> Signal:
    """A signal turned into booleans is discrete."""
    dtype = var.aval.dtype
    becomes = jnp.issubdtype(dtype, jnp.bool_)
    return dataclasses.replace(
        signal,
        dims=signal.dims if dims is None else dims,
        is_discrete=signal.is_discrete or becomes,
    )


def _constant_lookup(builder: Builder, value: Derived) -> Signal:
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
    )
    dims = tuple(
        ((frozenset({OUT}), _axes.size_of(dim)),) if i in columns else _plain_dim(dim)
        for i, dim in enumerate(view.dims)
    )
    return Signal(node, dims, leader=index, is_direct=True)


def _plain_dim(dim):
    return ((NO_LABELS, _axes.size_of(dim)),)


# --- contractions ---------------------------------------------------------------------


def _dot_general(builder: Builder, eqn: Eqn, lhs: Value, rhs: Value) -> Value:
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


def _ragged_dot(builder: Builder, eqn: Eqn, lhs: Value, rhs: Derived) -> Value:
    """A bank of experts, each applied to the rows that belong to it."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracting), (_, batch) = numbers.dot_dimension_numbers
    groups = (*numbers.rhs_group_dimensions, *batch)
    if not isinstance(lhs, Signal):
        return _opaque(eqn, [lhs, rhs])
    if not groups:
        raise unsupported(eqn, "its groups are no axis of the parameter.")
    shape = shape_of(eqn.invars[1])
    free = [i for i in range(len(shape)) if i not in (*contracting, *groups)]
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
        fan_out=math.prod(shape[axis] for axis in free),
    )
    out_shape = shape_of(eqn.outvars[0])
    dims = list(_axes.plain(out_shape))
    for i in range(len(free)):
        at = len(dims) - len(free) + i
        dims[at] = ((frozenset({OUT}), out_shape[at]),)
    return Signal(node, tuple(dims), leader=index, is_direct=True)


def _conv(builder: Builder, eqn: Eqn, lhs: Value, rhs: Value) -> Value:
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
    return _opaque(eqn, [lhs, rhs])


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


# --- lookups and slices ---------------------------------------------------------------


def _gather(builder: Builder, eqn: Eqn, operand: Value, indices: Value) -> Value:
    numbers = eqn.params["dimension_numbers"]
    out_shape = shape_of(eqn.outvars[0])
    sizes = eqn.params["slice_sizes"]
    if isinstance(operand, Const):
        if isinstance(indices, Signal):  # a fixed table
            return dataclasses.replace(
                indices, dims=_axes.plain(out_shape), part=WHOLE, is_direct=False
            )
        if isinstance(indices, Derived):
            return _opaque(eqn, [indices])
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


def _dynamic_slice(builder: Builder, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
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
        return [_slice_signal(builder, operand, result, moved.slices[0])]
    moving = [
        axis
        for axis, start in enumerate(starts)
        if isinstance(start, Signal) and shape[axis] < sizes[axis]
    ]
    if not moving:
        views = tuple(
            _move_view(builder, eqn, view, [shape], 0, known) for view in operand.views
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
    )
    dims = tuple(
        ((frozenset({OUT}), size),) if i in columns else ((NO_LABELS, size),)
        for i, size in enumerate(shape)
    )
    return [Signal(node, dims, leader=index, is_direct=True)]


def _concatenate(builder: Builder, eqn: Eqn, values: Sequence[Value]) -> Value:
    shape = shape_of(eqn.outvars[0])

    def place(dims: Dims) -> Dims:
        if eqn.primitive.name == "stack":
            axis = eqn.params["axis"]
            return (*dims[:axis], ((NO_LABELS, shape[axis]),), *dims[axis:])
        axis = eqn.params["dimension"]
        widened = ((_axes.labels_of(dims[axis]), shape[axis]),)
        return (*dims[:axis], widened, *dims[axis + 1 :])

    signals = [value for value in values if isinstance(value, Signal)]
    derived = [value for value in values if isinstance(value, Derived)]
    if not signals:
        views = [
            dataclasses.replace(view, dims=place(view.dims))
            for value in derived
            for view in value.views
        ]
        return Derived(unite(views))
    for value in [value for value in derived if value.lookup]:
        signals.append(_constant_lookup(builder, value))
        derived.remove(value)
    live = [signal for signal in signals if not signal.is_discrete] or signals
    node = builder.join(live)
    same = len({signal.node for signal in live}) == 1
    leader = max(signal.leader for signal in live)
    dims = _axes.plain(shape)
    for signal in live:
        if signal.leader == leader:
            dims = _axes.merge(dims, place(signal.dims))
    result = Signal(
        node,
        dims,
        leader,
        builder.combine_parts(live, is_product=False) if same else WHOLE,
        is_discrete=all(signal.is_discrete for signal in live),
    )
    for value in derived:
        views = tuple(
            dataclasses.replace(view, dims=place(view.dims)) for view in value.views
        )
        builder.use_vectors(Derived(views), result, "shift")
    return result


# --- everything else ------------------------------------------------------------------


def _unknown(builder: Builder, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    """Several arrays: signals are joined, parameters become opaque, never both."""
    signals = [value for value in values if isinstance(value, Signal)]
    derived = [value for value in values if isinstance(value, Derived)]
    if signals and derived:
        leaves = dict.fromkeys(view.leaf for value in derived for view in value.views)
        paths = ", ".join(f"`{builder.leaves[leaf].path}`" for leaf in leaves)
        raise unsupported(
            eqn,
            f"it combines a signal with the parameters {paths} in a way that has no "
            "rule. Write it with matrix products, convolutions or lookups.",
        )
    if not signals:
        return [_opaque(eqn, derived, var) for var in eqn.outvars]
    live = [signal for signal in signals if not signal.is_discrete] or signals
    node = builder.join(live)
    leader = max(signal.leader for signal in live)
    same = len({signal.node for signal in live}) == 1
    results: list[Value] = []
    for var in eqn.outvars:
        shape = shape_of(var)
        signal = Signal(
            node,
            _merged_dims(live, shape) if same else _axes.plain(shape),
            leader,
            builder.combine_parts(live, is_product=True) if same else WHOLE,
            is_discrete=all(signal.is_discrete for signal in live),
        )
        results.append(_with_dtype(signal, var))
    return results


def _opaque(eqn: Eqn, values: Sequence[Value], var: Any = None) -> Derived:
    """Parameter-derived, by an operation behind which axes cannot be followed."""
    shape = shape_of(var or eqn.outvars[0])
    views = unite(
        [
            dataclasses.replace(
                view,
                dims=_axes.plain(shape),
                lost=_named(eqn),
            )
            for value in values
            if isinstance(value, Derived)
            for view in value.views
        ]
    )
    return Derived(views)
