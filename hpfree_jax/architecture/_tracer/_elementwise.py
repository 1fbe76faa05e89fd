"""Elementwise combinations of arrays, concatenations, and writes into arrays."""

import dataclasses
import operator
from collections.abc import Sequence

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims
from hpfree_jax.architecture._tracer._build import Builder
from hpfree_jax.architecture._tracer._equations import Eqn, shape_of, with_dtype
from hpfree_jax.architecture._tracer._registry import rule
from hpfree_jax.architecture._tracer._slices import look_up_constants
from hpfree_jax.architecture._tracer._values import (
    Const,
    Derived,
    Signal,
    Value,
    derived_in,
    latest_dims,
    latest_leader,
    live,
    replace_views,
    signals_in,
    unite,
)


def combine(
    builder: Builder,
    eqn: Eqn,
    values: Sequence[Value],
    *,
    is_sum: bool = False,
    is_product: bool = False,
) -> list[Value]:
    """Adds, multiplies, selects, ...: stays in the node, sums nodes, or joins them."""
    signals, derived = signals_in(values), derived_in(values)
    shape = shape_of(eqn.outvars[0])
    if not signals:
        if not derived:
            return [Const()]
        if is_product and len(derived) > 1:
            derived = _mark_scale(derived)
        gets_offset = is_sum and len(derived) < len(values)
        return [_combine_derived(derived, shape, gets_offset)]
    signals, derived = look_up_constants(builder, signals, derived)
    used = live(signals)
    result = _combine_signals(
        builder, used, shape, is_sum=is_sum, is_product=is_product
    )
    if eqn.primitive.name == "div" and not isinstance(values[0], Signal):
        result = dataclasses.replace(result, is_unmodified=False)
    result = with_dtype(result, eqn.outvars[0])
    target = dataclasses.replace(used[0], dims=result.dims, leader=result.leader)
    for value in derived:
        builder.use_vectors(value, target, "scale" if is_product else "shift")
    return [result]


def _combine_signals(
    builder: Builder,
    signals: Sequence[Signal],
    shape: tuple[int, ...],
    *,
    is_sum: bool,
    is_product: bool,
) -> Signal:
    dims = latest_dims([(signal, signal.dims) for signal in signals], shape)
    is_one_node = len({signal.node for signal in signals}) == 1
    is_linear = is_sum or (is_product and len(signals) == 1)
    if is_sum and not is_one_node and not any(s.blocks_gradient for s in signals):
        leader = latest_leader(signals)
        return Signal(builder.sum(signals), dims, leader, is_unmodified=True)
    result = builder.join_signals(
        signals, dims, is_product=is_product and len(signals) > 1
    )
    return dataclasses.replace(
        result,
        is_one_hot=all(signal.is_one_hot for signal in signals),
        is_unmodified=is_one_node
        and is_linear
        and all(s.is_unmodified for s in signals),
    )


def _combine_derived(
    derived: Sequence[Derived], shape: tuple[int, ...], gets_offset: bool
) -> Derived:
    views = tuple(
        dataclasses.replace(
            view,
            is_offset=view.is_offset or gets_offset,
            dims=_axes.fit(view.dims, shape),
        )
        for view in unite([view for value in derived for view in value.views])
    )
    lookup = NO_LABELS.union(*(value.lookup for value in derived))
    return Derived(views, lookup if len(views) == 1 else NO_LABELS)


def _mark_scale(factors: Sequence[Derived]) -> list[Derived]:
    """Marks the leaves of the factor of fewest axes as scales of the others."""

    def num_axes(value):
        return max(sum(bool(_axes.labels_of(d)) for d in v.dims) for v in value.views)

    smallest = min(reversed(range(len(factors))), key=lambda i: num_axes(factors[i]))
    marked = list(factors)
    as_scale = lambda view: dataclasses.replace(view, is_scale=True)
    marked[smallest] = replace_views(factors[smallest], as_scale)
    return marked


# --- the rules ------------------------------------------------------------------------


@rule("add_any")
@rule("add", evaluate=operator.add, keeps_iota=True)
@rule("sub", evaluate=operator.sub, keeps_iota=True)
def _sum(tracer, eqn, values):
    return combine(tracer.builder, eqn, values, is_sum=True)


@rule("div")
@rule("mul", evaluate=operator.mul, keeps_iota=True)
def _product(tracer, eqn, values):
    return combine(tracer.builder, eqn, values, is_product=True)


@rule("pow", "rem", "atan2", "nextafter", "complex", "and", "or", "xor")
@rule("ne", "le", "gt", "ge", "eq_to", "le_to", "lt_to")
@rule("lt", evaluate=lambda a, b: int(a < b))
@rule("max", evaluate=max)
@rule("min", evaluate=min)
@rule("clamp", evaluate=lambda low, value, high: min(max(value, low), high))
def _elementwise(tracer, eqn, values):
    return combine(tracer.builder, eqn, values)


@rule("eq")
def _equal(tracer, eqn, values):
    """Compared with an enumeration of positions, an index becomes a one-hot vector."""
    (result,) = combine(tracer.builder, eqn, values)
    is_one_hot = any(isinstance(value, Const) and value.is_iota for value in values)
    if is_one_hot and isinstance(result, Signal):
        result = dataclasses.replace(result, is_one_hot=True)
    return [result]


@rule("select_n", evaluate=lambda which, *cases: dict(enumerate(cases)).get(which))
def _select(tracer, eqn, values):
    return combine(tracer.builder, eqn, values[1:])


@rule("dynamic_update_slice")
def _update_slice(tracer, eqn, values):
    return combine(tracer.builder, eqn, values[:2])


@rule("scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul")
@rule("scatter-sub")
def _scatter(tracer, eqn, values):
    return combine(tracer.builder, eqn, [values[0], values[2]])


@rule("concatenate", "stack")
def _concatenate(tracer, eqn, values):
    builder, shape = tracer.builder, shape_of(eqn.outvars[0])

    def place(dims: Dims) -> Dims:
        if eqn.primitive.name == "stack":
            axis = eqn.params["axis"]
            return (*dims[:axis], ((NO_LABELS, shape[axis]),), *dims[axis:])
        axis = eqn.params["dimension"]
        widened = ((_axes.labels_of(dims[axis]), shape[axis]),)
        return (*dims[:axis], widened, *dims[axis + 1 :])

    move = lambda view: dataclasses.replace(view, dims=place(view.dims))
    signals, derived = signals_in(values), derived_in(values)
    if not signals:
        return [Derived(unite([move(v) for value in derived for v in value.views]))]
    signals, derived = look_up_constants(builder, signals, derived)
    used = live(signals)
    dims = latest_dims([(signal, place(signal.dims)) for signal in used], shape)
    result = builder.join_signals(used, dims, is_product=False)
    for value in derived:
        builder.use_vectors(replace_views(value, move), result, "shift")
    return [result]


@rule("random_bits", "random_clone", "random_fold_in", "random_gamma", "random_seed")
@rule("random_split", "random_unwrap", "random_wrap", "rng_bit_generator")
@rule("rng_uniform", "threefry2x32")
def _noise(tracer, eqn, values):
    """Random numbers are constants, even where their key is an input."""
    return [Const() for _ in eqn.outvars]


@rule("iota")
def _iota(tracer, eqn, values):
    return [Const(is_iota=True)]
