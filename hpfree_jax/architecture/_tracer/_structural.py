"""Primitives with one operand, which move or cut axes, and those without a rule."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import OUT, Dims, Moved, labels_along
from hpfree_jax.architecture._tracer._build import Builder
from hpfree_jax.architecture._tracer._equations import (
    Eqn,
    has_no_derivative,
    named,
    opaque,
    shape_of,
    unsupported,
    with_dtype,
)
from hpfree_jax.architecture._tracer._registry import Tracer, rule
from hpfree_jax.architecture._tracer._values import (
    WHOLE,
    Const,
    Derived,
    Signal,
    Value,
    View,
    are,
    derived_in,
    latest_dims,
    live,
    replace_views,
    signals_in,
)

# What becomes of the axes of the operand: (dims, shapes of the results, parameters).
Move = Callable[[Dims, Sequence[tuple[int, ...]], Mapping[str, Any]], Moved]


def stay(dims, shapes, parameters) -> Moved:
    """Each axis stays in its place, as long as the shape does."""
    del parameters
    sizes = tuple(map(_axes.size_of, dims))
    return Moved(
        tuple(dims if shape == sizes else _axes.plain(shape) for shape in shapes)
    )


def one_operand(
    tracer: Tracer,
    eqn: Eqn,
    values: Sequence[Value],
    *,
    move: Move = stay,
    is_unmodified: bool = False,
    drops_offset: bool = False,
) -> Sequence[Value]:
    """The results of a primitive with one operand whose axes can be followed.

    Args:
      tracer: the tracer.
      eqn: the equation.
      values: of the operands; with more than one, there is no rule.
      move: what becomes of the axes.
      is_unmodified: whether the values of a sum pass through, up to their scale.
      drops_offset: whether ``1 + weights`` is no scale any more afterwards.
    """
    if len(values) != 1:
        return unknown(tracer, eqn, values)
    (value,) = values
    shapes = [shape_of(var) for var in eqn.outvars]
    if isinstance(value, Signal):
        moved = move(value.dims, shapes, eqn.params)
        return [
            _moved_signal(tracer.builder, eqn, value, moved, index, is_unmodified)
            for index in range(len(shapes))
        ]
    if not isinstance(value, Derived):
        return [Const() for _ in shapes]
    moves = [move(view.dims, shapes, eqn.params) for view in value.views]
    results: list[Value] = []
    for index in range(len(shapes)):
        views = tuple(
            move_view(tracer.builder, eqn, view, moved, index)
            for view, moved in zip(value.views, moves, strict=True)
        )
        result = dataclasses.replace(value, views=views)
        if drops_offset:
            no_offset = lambda view: dataclasses.replace(view, is_offset=False)
            result = replace_views(result, no_offset)
        results.append(result)
    return results


def unknown(tracer: Tracer, eqn: Eqn, values: Sequence[Value]) -> Sequence[Value]:
    """The results of a primitive without a rule.

    Signals are joined, a function of one signal stays in its node, and parameters
    cannot be followed behind it.
    """
    has_jaxpr = any(
        hasattr(value, "eqns") or hasattr(value, "jaxpr")
        for value in eqn.params.values()
    )
    if has_jaxpr and not are(values, Const, Signal):
        raise unsupported(
            eqn,
            "it runs code of its own on parameters. Trace the same model written in "
            "plain JAX.",
        )
    if len(values) == 1 and isinstance(values[0], Signal):
        return one_operand(tracer, eqn, values)
    return without_rule(tracer, eqn, values)


@rule("reduce")  # its code combines two numbers
def without_rule(tracer: Tracer, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    """Signals are joined, parameters become opaque; raises where they meet."""
    signals, derived = signals_in(values), derived_in(values)
    if signals and derived:
        leaves = dict.fromkeys(view.leaf for value in derived for view in value.views)
        paths = ", ".join(f"`{tracer.builder.leaves[leaf].path}`" for leaf in leaves)
        raise unsupported(
            eqn,
            f"it combines a signal with the parameters {paths} in a way that has no "
            "rule. Write it with matrix products, convolutions or lookups.",
        )
    if derived:
        return [opaque(eqn, derived, var) for var in eqn.outvars]
    if not signals:
        return [Const() for _ in eqn.outvars]
    used = live(signals)
    joined = tracer.builder.join_signals(used, (), is_product=True)
    # Axes are followed within one node.
    pairs = [(signal, signal.dims) for signal in used if signal.node == joined.node]
    return [
        with_dtype(dataclasses.replace(joined, dims=_latest(pairs, var)), var)
        for var in eqn.outvars
    ]


def _latest(pairs: Sequence[tuple[Signal, Dims]], var: Any) -> Dims:
    shape = shape_of(var)
    return latest_dims(pairs, shape) if pairs else _axes.plain(shape)


def _moved_signal(
    builder: Builder,
    eqn: Eqn,
    value: Signal,
    moved: Moved,
    index: int,
    is_unmodified: bool,
) -> Signal:
    var = eqn.outvars[index]
    source, target = (v.aval.dtype for v in (eqn.invars[0], var))  # type: ignore
    result = dataclasses.replace(
        value,
        dims=moved.outputs[index],
        blocks_gradient=value.blocks_gradient or has_no_derivative(source, target),
        is_unmodified=value.is_unmodified and is_unmodified,
    )
    # By name: not every version of JAX exports the class of unused results.
    if moved.slices and type(var).__name__ != "DropVar":
        return slice_signal(builder, value, result, moved.slices[index])
    return result


def slice_signal(
    builder: Builder, before: Signal, after: Signal, slices: Sequence[tuple]
) -> Signal:
    """Notes which part of its node's output a slice of a signal is."""
    after = dataclasses.replace(after, is_unmodified=False)
    cut = [entry for entry in slices if OUT in _axes.labels_of(before.dims[entry[0]])]
    if not cut or before.part != WHOLE:
        return after
    starts = (
        (axis, builder.unique() if start is None else start, size)
        for axis, start, size in cut
    )
    part = (len(before.dims), *starts)
    builder.parts_of(before.node).find(part)
    return dataclasses.replace(after, part=part)


def move_view(builder: Builder, eqn: Eqn, view: View, moved: Moved, index: int) -> View:
    """What one result of a primitive with one operand holds of a leaf."""
    slices = list(view.slices)
    for axis, start, size in moved.slices[index] if moved.slices else ():
        start = builder.unique() if start is None else start
        for label in sorted(_axes.labels_of(view.dims[axis])):
            slices.append((label, start, size))
    indexed = list(view.indexed)
    for axis in sorted(moved.squeezed):
        if builder.leaves[view.leaf].shape[axis] > 1:
            starts = [s for a, s, size in slices if a == axis and size == 1]
            indexed.append((axis, starts[-1] if starts else builder.unique()))
            slices = [entry for entry in slices if entry[0] != axis]
    return dataclasses.replace(
        view,
        dims=moved.outputs[index],
        indexed=tuple(indexed),
        slices=tuple(slices),
        links=view.links + (((moved.reduced, 0),) if moved.reduced else ()),
        lost=view.lost or _lost(eqn, view, moved, index),
    )


def _lost(eqn: Eqn, view: View, moved: Moved, index: int) -> str | None:
    """The primitive, if nothing is known any more of axes that were known before."""
    if math.prod(shape_of(eqn.outvars[0])) <= 1 or moved.reduced or moved.squeezed:
        return None
    is_lost = labels_along(view.dims) and not labels_along(moved.outputs[index])
    return named(eqn) if is_lost else None


# --- the rules ------------------------------------------------------------------------


def _moves(*names: str, is_unmodified: bool = False, **facts: Any):
    """Registers how primitives with one operand move its axes."""

    def register(move: Move) -> Move:
        def apply(tracer, eqn, values):
            return one_operand(
                tracer, eqn, values, move=move, is_unmodified=is_unmodified
            )

        rule(*names, **facts)(apply)
        return move

    return register


@rule("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitcast_convert_type")
@rule("cbrt", "ceil", "conj", "cos", "cosh", "cummax", "cummin", "cumprod", "cumsum")
@rule("digamma", "erf", "erf_inv", "erfc", "exp2", "expm1", "floor", "imag")
@rule("is_finite", "lgamma", "log", "log1p", "not", "real", "reshard", "rev", "round")
@rule("rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan")
@rule("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")
def _map(tracer, eqn, values):
    return one_operand(tracer, eqn, values)


@rule("device_put", "name", "neg", "reduce_precision", "sharding_constraint")
@rule("stop_gradient")
@rule("copy", evaluate=lambda value: value)
@rule("convert_element_type", evaluate=lambda value: value, keeps_iota=True)
def _unmodified(tracer, eqn, values):
    return one_operand(tracer, eqn, values, is_unmodified=True)


@rule("exp", "integer_pow", "logistic", "tanh")
def _bend(tracer, eqn, values):
    return one_operand(tracer, eqn, values, drops_offset=True)


@rule("optimization_barrier", "tie")
def _identity(tracer, eqn, values):
    return list(values[-len(eqn.outvars) :])


@_moves("transpose", is_unmodified=True)
def _transpose(dims, shapes, parameters):
    return Moved((tuple(dims[axis] for axis in parameters["permutation"]),))


@_moves("reshape", is_unmodified=True, evaluate=lambda value: value, keeps_iota=True)
def _reshape(dims, shapes, parameters):
    order = parameters.get("dimensions") or range(len(dims))
    return Moved((_axes.reshape(tuple(dims[axis] for axis in order), shapes[0]),))


@_moves("broadcast_in_dim", is_unmodified=True, keeps_iota=True)
def _broadcast(dims, shapes, parameters):
    positions = parameters["broadcast_dimensions"]
    return Moved((_axes.broadcast(dims, shapes[0], positions),))


@_moves("squeeze", is_unmodified=True, evaluate=lambda value: value)
def _squeeze(dims, shapes, parameters):
    axes = [axis % len(dims) for axis in parameters["dimensions"]]
    kept, gone = _without(dims, axes)
    return Moved((kept,), squeezed=gone)


@_moves("slice")
def _slice(dims, shapes, parameters):
    starts, strides = parameters["start_indices"], parameters["strides"]
    return _axes.cut(dims, shapes[0], starts, strides)


@_moves("split")
def _split(dims, shapes, parameters):
    axis, start, pieces = parameters["axis"], 0, []
    for shape in shapes:
        starts = [start if i == axis else 0 for i in range(len(dims))]
        pieces.append(_axes.cut(dims, shape, starts))
        start += shape[axis]
    return Moved(
        tuple(piece.outputs[0] for piece in pieces),
        slices=tuple(piece.slices[0] for piece in pieces),
    )


@_moves("unstack")
def _unstack(dims, shapes, parameters):
    axis = parameters["axis"]
    kept, gone = _without(dims, [axis])
    slices = tuple(((axis, index, 1),) for index in range(len(shapes)))
    return Moved((kept,) * len(shapes), squeezed=gone, slices=slices)


def _resize(dims, shapes, parameters):
    del parameters
    pairs = zip(dims, shapes[0], strict=True)
    return Moved((tuple(_axes.resize(dim, size) for dim, size in pairs),))


_moves("tile")(_resize)


@rule("pad")
def _pad(tracer, eqn, values):
    if not are(values[1:], Const):
        return unknown(tracer, eqn, values)
    return one_operand(tracer, eqn, values[:1], move=_resize)


@_moves("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and")
@_moves("reduce_or", "reduce_xor", "argmax", "argmin")
def _reduce(dims, shapes, parameters):
    kept, gone = _without(dims, parameters["axes"])
    return Moved((kept,), reduced=gone)


def _without(dims, axes):
    """Dims without some axes, and the source axes that are gone with them."""
    kept = tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
    return kept, labels_along(dims, axes) - labels_along(kept)
