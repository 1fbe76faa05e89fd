"""What each primitive of a jaxpr does to constants, parameters and signals."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims
from hpfree_jax.architecture._tracer._build import Builder
from hpfree_jax.architecture._tracer._contractions import conv, dot_general, ragged_dot
from hpfree_jax.architecture._tracer._equations import (
    Eqn,
    opaque,
    shape_of,
    unsupported,
)
from hpfree_jax.architecture._tracer._slices import (
    constant_lookup,
    dynamic_slice,
    gather,
    move_view,
    slice_signal,
)
from hpfree_jax.architecture._tracer._values import (
    WHOLE,
    Const,
    Derived,
    Signal,
    Value,
    unite,
)

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
            return [dot_general(builder, eqn, *values)]
        case "ragged_dot_general" if isinstance(bank := values[1], Derived):
            return [ragged_dot(builder, eqn, values[0], bank)]
        case "conv_general_dilated":
            return [conv(builder, eqn, *values)]
        case "gather":
            return [gather(builder, eqn, *values)]
        case "dynamic_slice":
            return dynamic_slice(builder, eqn, values)
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
            return [opaque(eqn, [value], var) for var in eqn.outvars]
        return _unary_derived(builder, eqn, value, shapes)
    moved = _axes.move(name, eqn.params, value.dims, shapes)
    results: list[Value] = []
    for index, var in enumerate(eqn.outvars):
        result = _with_dtype(value, var, moved.outputs[index])
        if _is_rounded(eqn, var):
            result = dataclasses.replace(result, is_discrete=True)
        if moved.slices and not _is_dropped(var):
            result = slice_signal(builder, value, result, moved.slices[index])
        elif name not in DIRECT:
            result = dataclasses.replace(result, is_direct=False)
        results.append(result)
    return results


def _is_dropped(var: Any) -> bool:
    # By name: not every version of JAX exports the class.
    return type(var).__name__ == "DropVar"


def _is_rounded(eqn: Eqn, var: Any) -> bool:
    """Whether floats go in and integers come out: no derivative passes."""
    source = eqn.invars[0].aval.dtype  # type: ignore[union-attr]
    return jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(
        var.aval.dtype, jnp.integer
    )


def _unary_derived(builder, eqn, value, shapes):
    name = eqn.primitive.name
    results = []
    for index in range(len(eqn.outvars)):
        views = tuple(
            move_view(builder, eqn, view, shapes, index) for view in value.views
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
        if name in PRODUCTS and len(derived) > 1:
            derived = _mark_scale(derived)
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
        signals.append(constant_lookup(builder, value))
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


def _mark_scale(factors: Sequence[Derived]) -> list[Derived]:
    """Marks the leaves of the factor of fewest axes as scales of the others."""

    def num_axes(value):
        return max(sum(bool(_axes.labels_of(d)) for d in v.dims) for v in value.views)

    smallest = min(reversed(range(len(factors))), key=lambda i: num_axes(factors[i]))
    views = (dataclasses.replace(v, is_scale=True) for v in factors[smallest].views)
    marked = list(factors)
    marked[smallest] = dataclasses.replace(factors[smallest], views=tuple(views))
    return marked


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
        signals.append(constant_lookup(builder, value))
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
        return [opaque(eqn, derived, var) for var in eqn.outvars]
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
