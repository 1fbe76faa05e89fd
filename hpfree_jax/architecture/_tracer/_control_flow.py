"""Primitives that run jaxprs of their own: calls, loops and branches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._axes import NO_LABELS, Dims
from hpfree_jax.architecture._tracer._equations import (
    Eqn,
    opaque,
    shape_of,
    unsupported,
)
from hpfree_jax.architecture._tracer._registry import Tracer, rule
from hpfree_jax.architecture._tracer._values import (
    Const,
    Derived,
    Signal,
    Value,
    View,
    are,
    derived_in,
    latest_leader,
    live,
    replace_views,
    signals_in,
    unite,
)


def _runs(*names: str, parameter: str) -> None:
    """Registers primitives that run a jaxpr once, and the parameter that holds it."""

    def call(tracer, eqn, values):
        return tracer.run(eqn.params[parameter], values)

    rule(*names)(call)


_runs("jit", "pjit", "checkpoint", "remat", "remat2", "composite", parameter="jaxpr")
_runs("closed_call", "core_call", "call", parameter="call_jaxpr")
_runs("custom_jvp_call", "custom_vjp_call", parameter="call_jaxpr")
_runs("custom_vjp_call_jaxpr", parameter="fun_jaxpr")
_runs("custom_vmap_call", parameter="call")


# --- scan -----------------------------------------------------------------------------


@rule("scan")
def _scan(tracer: Tracer, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    length, jaxpr = eqn.params["length"], eqn.params["jaxpr"]
    body = getattr(jaxpr, "jaxpr", jaxpr)
    num_carry = len(eqn.outvars) - _num_slices(body.outvars, eqn.outvars)
    num_consts = len(values) - num_carry - _num_slices(body.invars, eqn.invars)
    consts = values[:num_consts]
    carry = values[num_consts : num_consts + num_carry]
    stacked = values[num_consts + num_carry :]
    if are(values, Const, Signal):
        return _loop_without_parameters(tracer, eqn, jaxpr, consts, carry, stacked)
    out_vars = eqn.outvars[num_carry:]
    if not derived_in(stacked):
        results = _map(tracer, jaxpr, length, consts, carry, stacked)
        if results is not None:
            pairs = zip(results[num_carry:], out_vars, strict=True)
            outputs = [_stack(tracer, [(0, value)], var) for value, var in pairs]
            return [*results[:num_carry], *outputs]
    order = range(length)[:: -1 if eqn.params["reverse"] else 1]
    collected: list[Sequence[Value]] = []
    for index in order:
        slices = [_slice(value, index) for value in stacked]
        results = tracer.run(jaxpr, [*consts, *carry, *slices])
        carry = results[:num_carry]
        collected.append(results[num_carry:])
    if not collected:
        return [*carry, *(Const() for _ in out_vars)]
    return [
        *carry,
        *(
            _stack(tracer, list(zip(order, ys, strict=True)), var)
            for ys, var in zip(zip(*collected, strict=True), out_vars, strict=True)
        ),
    ]


def _map(
    tracer: Tracer,
    jaxpr: Any,
    length: int,
    consts: Sequence[Value],
    carry: Sequence[Value],
    stacked: Sequence[Value],
) -> list[Value] | None:
    """One iteration for all, where the carry takes nothing along, else None."""
    if not are(carry, Const):
        return None
    before = tracer.builder.snapshot()
    with tracer.builder.repeated(length):
        unknown_carry = [Const() for _ in carry]
        slices = map(_drop_axis, stacked)
        results = tracer.run(jaxpr, [*consts, *unknown_carry, *slices])
    if are(results[: len(carry)], Const):
        return results
    tracer.builder.restore(before)
    return None


def _num_slices(inside: Sequence[Any], outside: Sequence[Any]) -> int:
    """How many variables of a loop's body are slices of those outside of it.

    Counted by their ranks, as the parameters of ``scan`` that say it depend on the
    version of JAX.
    """
    ranks = [[len(shape_of(var)) for var in side] for side in (inside, outside)]
    return sum(a < b for a, b in zip(*ranks, strict=True))


def _drop_axis(value: Value) -> Value:
    """A slice along the first axis of what a loop iterates over."""
    if isinstance(value, Signal):
        return dataclasses.replace(value, dims=value.dims[1:], is_unmodified=False)
    return value


def _slice(value: Value, index: int) -> Value:
    """The slice that a loop takes of an operand in one iteration."""
    if isinstance(value, Const):
        return Const()
    if isinstance(value, Signal):
        return _drop_axis(value)

    def take(view: View) -> View:
        labels = sorted(_axes.labels_of(view.dims[0]))
        indexed = view.indexed + tuple((axis, index) for axis in labels)
        return dataclasses.replace(view, dims=view.dims[1:], indexed=indexed)

    return replace_views(value, take)


def _stack(tracer: Tracer, results: list[tuple[int, Value]], var: Any) -> Value:
    """What a loop stacks: pairs of the iteration's index and its value."""
    values = [value for _, value in results]
    shape = shape_of(var)
    if len(values) == 1 and isinstance(values[0], Signal):
        dims = (((NO_LABELS, shape[0]),), *values[0].dims)
        return dataclasses.replace(values[0], dims=dims, is_unmodified=False)
    if signals_in(values):
        return _any_of(tracer, values, shape)
    if are(values, Const):
        return Const()
    views = [
        _put_axis_back(view, index, shape[0])
        for index, value in results
        if isinstance(value, Derived)
        for view in value.views
    ]
    return Derived(unite(views))


def _put_axis_back(view: View, index: int, size: int) -> View:
    """Undoes the slicing of a leaf by a loop, where it is stacked again."""
    picked = [axis for axis, at in view.indexed if at == index]
    labels = frozenset(picked[-1:])
    indexed = tuple(e for e in view.indexed if not picked or e != (picked[-1], index))
    return dataclasses.replace(
        view, dims=(((labels, size),), *view.dims), indexed=indexed
    )


# --- while, and loops that read no parameters -----------------------------------------


@rule("while")
def _while(tracer: Tracer, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts = values[num_cond : num_cond + num_body]
    carry = values[num_cond + num_body :]
    entering = [*consts, *carry]
    if are(entering, Const, Signal):
        body = eqn.params["body_jaxpr"]
        return _loop_without_parameters(tracer, eqn, body, consts, carry, [])
    if are(entering, Const, Derived):  # a computation on weights
        return [opaque(eqn, entering, var) for var in eqn.outvars]
    raise unsupported(
        eqn,
        "how often a `while` loop runs is not known, and it reads parameters, so "
        "that its layers cannot be counted. Use lax.scan, or lax.fori_loop with "
        "bounds that are Python integers.",
    )


def _loop_without_parameters(
    tracer: Tracer,
    eqn: Eqn,
    body: Any,
    consts: Sequence[Value],
    carry: Sequence[Value],
    stacked: Sequence[Value],
) -> list[Value]:
    """All signals that enter a loop without parameters are joined into one node."""
    signals = signals_in([*consts, *carry, *stacked])
    if not signals:
        return [Const() for _ in eqn.outvars]
    used = live(signals)
    node, leader = tracer.builder.join(used), latest_leader(used)

    def inside(value: Value, dims: Dims | None = None) -> Value:
        if not isinstance(value, Signal):
            return Const()
        if dims is None:
            dims = _axes.plain([_axes.size_of(dim) for dim in value.dims])
        own = value.node if value.blocks_gradient else node
        return Signal(own, dims, leader, blocks_gradient=value.blocks_gradient)

    consts, carry = list(map(inside, consts)), list(map(inside, carry))
    slices = [inside(_drop_axis(value)) for value in stacked]
    while True:  # until no constant of the carry turns into a signal any more
        results = tracer.run(body, [*consts, *carry, *slices])
        after = [
            inside(new) if isinstance(old, Const) else old
            for old, new in zip(carry, results[: len(carry)], strict=True)
        ]
        if after == carry:
            break
        carry = after
    return [
        inside(value, _axes.plain(shape_of(var)))
        for value, var in zip(results, eqn.outvars, strict=True)
    ]


# --- cond -----------------------------------------------------------------------------


@rule("cond")
def _cond(tracer: Tracer, eqn: Eqn, values: Sequence[Value]) -> list[Value]:
    _, *operands = values
    branches = [tracer.run(branch, operands) for branch in eqn.params["branches"]]
    return [
        _any_of(tracer, list(results), shape_of(var))
        for results, var in zip(zip(*branches, strict=True), eqn.outvars, strict=True)
    ]


def _any_of(tracer: Tracer, values: list[Value], shape: tuple[int, ...]) -> Value:
    """What is known of a value that may be any one of several."""
    signals = signals_in(values)
    if not signals:
        views = [view for value in derived_in(values) for view in value.views]
        return Derived(unite(views)) if views else Const()
    first = signals[0]
    is_same = all(value == first for value in values)
    if is_same and len(first.dims) == len(shape):
        return first
    used = live(signals)
    result = Signal(
        tracer.builder.join(used),
        _axes.plain(shape),
        latest_leader(used),
        blocks_gradient=all(signal.blocks_gradient for signal in used),
    )
    for value in derived_in(values):
        tracer.builder.use_vectors(value, result, "shift")
    return result
