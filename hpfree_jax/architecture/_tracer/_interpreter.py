"""Walks through jaxprs and their control flow with abstract values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from hpfree_jax.architecture._tracer import _axes, _elementwise
from hpfree_jax.architecture._tracer._axes import NO_LABELS
from hpfree_jax.architecture._tracer._build import Builder
from hpfree_jax.architecture._tracer._equations import (
    UntraceableError,
    opaque,
    shape_of,
    unsupported,
)
from hpfree_jax.architecture._tracer._values import (
    Const,
    Derived,
    Signal,
    Value,
    View,
    unite,
)

# Primitives that run a jaxpr once on their operands, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
    "composite": "jaxpr",
}


class Interpreter:
    """Walks through a jaxpr with abstract values."""

    def __init__(self, builder: Builder):
        self.builder = builder

    def run(self, closed: Any, values: Sequence[Value]) -> list[Value]:
        """The values of the results of a jaxpr, given those of its arguments."""
        jaxpr = getattr(closed, "jaxpr", closed)
        env: dict[Any, Value] = dict(zip(jaxpr.invars, values, strict=True))
        env.update((var, Const()) for var in jaxpr.constvars)

        def read(atom):
            if isinstance(atom, core.Literal):
                return _literal(atom)
            return env[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, values: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if values and _all(values, Const):
            if name in CALLS or name in ("scan", "while", "cond"):
                return [Const() for _ in eqn.outvars]
            return _elementwise.apply_rule(self.builder, eqn, values)
        try:
            if name in CALLS:
                return self.run(eqn.params[CALLS[name]], values)
            match name:
                case "scan":
                    return self._scan(eqn, values)
                case "while":
                    return self._while(eqn, values)
                case "cond":
                    return self._cond(eqn, values)
            has_jaxpr = any(
                hasattr(value, "eqns") or hasattr(value, "jaxpr")
                for value in eqn.params.values()
            )
            is_known = name.startswith(("reduce", "scatter"))
            if has_jaxpr and not is_known and not _all(values, Const, Signal):
                raise unsupported(
                    eqn,
                    "it runs code of its own on parameters. Trace the same model "
                    "written in plain JAX.",
                )
            return _elementwise.apply_rule(self.builder, eqn, values)
        except UntraceableError as error:
            raise error.inside(eqn) from None
        except NotImplementedError as error:
            raise unsupported(eqn, str(error)) from None

    # --- control flow -----------------------------------------------------------------

    def _scan(self, eqn: Any, values: list[Value]) -> list[Value]:
        length, jaxpr = eqn.params["length"], eqn.params["jaxpr"]
        body = getattr(jaxpr, "jaxpr", jaxpr)
        num_carry = len(eqn.outvars) - _num_slices(body.outvars, eqn.outvars)
        num_stacked = _num_slices(body.invars, eqn.invars)
        num_consts = len(values) - num_carry - num_stacked
        consts = values[:num_consts]
        carry = values[num_consts : num_consts + num_carry]
        stacked = values[num_consts + num_carry :]
        if _all(values, Const, Signal):
            return self._loop_without_parameters(eqn, jaxpr, consts, carry, stacked)
        if not any(isinstance(value, Derived) for value in stacked):
            results = self._map(jaxpr, length, consts, carry, stacked)
            if results is not None:
                return [
                    *results[:num_carry],
                    *(
                        self._stack([(0, value)], var)
                        for value, var in zip(
                            results[num_carry:], eqn.outvars[num_carry:], strict=True
                        )
                    ),
                ]
        order = range(length)[:: -1 if eqn.params["reverse"] else 1]
        collected: list[list[Value]] = []
        for index in order:
            slices = [self._slice(value, index) for value in stacked]
            results = self.run(jaxpr, [*consts, *carry, *slices])
            carry, ys = results[:num_carry], results[num_carry:]
            collected.append(ys)
        outputs = [
            self._stack(list(zip(order, ys, strict=True)), var)
            for ys, var in zip(
                zip(*collected, strict=True), eqn.outvars[num_carry:], strict=False
            )
        ]
        if not collected:
            outputs = [Const() for _ in eqn.outvars[num_carry:]]
        return [*carry, *outputs]

    def _map(self, jaxpr, length, consts, carry, stacked) -> list[Value] | None:
        """One iteration for all, where the carry takes nothing along, else None."""
        if not _all(carry, Const):
            return None
        carry = [Const() for _ in carry]
        taken = self.builder.snapshot()
        with self.builder.repeated(length):
            results = self.run(jaxpr, [*consts, *carry, *map(_drop_axis, stacked)])
        if _all(results[: len(carry)], Const):
            return results
        self.builder.restore(taken)
        return None

    def _slice(self, value: Value, index: int) -> Value:
        if isinstance(value, Const):
            return Const()
        if isinstance(value, Signal):
            return _drop_axis(value)
        views = []
        for view in value.views:
            labels = _axes.labels_of(view.dims[0])
            indexed = tuple((axis, index) for axis in sorted(labels))
            views.append(
                dataclasses.replace(
                    view, dims=view.dims[1:], indexed=view.indexed + indexed
                )
            )
        return Derived(tuple(views), value.lookup)

    def _stack(self, ys: list[tuple[int, Value]], var: Any) -> Value:
        values = [value for _, value in ys]
        shape = shape_of(var)
        signals = [value for value in values if isinstance(value, Signal)]
        if len(values) == 1 and signals:
            (signal,) = signals
            dims = (((NO_LABELS, shape[0]),), *signal.dims)
            return dataclasses.replace(signal, dims=dims, is_direct=False)
        if signals:
            return self._merge_results(values, shape)
        if _all(values, Const):
            return Const()
        views: list[View] = []
        for index, value in ys:
            for view in value.views if isinstance(value, Derived) else ():
                picked = [axis for axis, at in view.indexed if at == index]
                if picked:  # put the axis back that the loop took off
                    axis = picked[-1]
                    kept = tuple(e for e in view.indexed if e != (axis, index))
                    dim = ((frozenset({axis}), shape[0]),)
                else:
                    kept, dim = view.indexed, ((NO_LABELS, shape[0]),)
                views.append(
                    dataclasses.replace(view, dims=(dim, *view.dims), indexed=kept)
                )
        return Derived(unite(views))

    def _while(self, eqn: Any, values: list[Value]) -> list[Value]:
        num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        body = eqn.params["body_jaxpr"]
        consts = values[num_cond : num_cond + num_body]
        carry = values[num_cond + num_body :]
        if _all([*consts, *carry], Const, Signal):
            return self._loop_without_parameters(eqn, body, consts, carry, [])
        if _all([*consts, *carry], Const, Derived):  # a computation on weights
            depends = [
                value for value in [*consts, *carry] if isinstance(value, Derived)
            ]
            return [opaque(eqn, depends, var) for var in eqn.outvars]
        raise unsupported(
            eqn,
            "how often a `while` loop runs is not known, and it reads parameters, so "
            "that its layers cannot be counted. Use lax.scan, or lax.fori_loop with "
            "bounds that are Python integers.",
        )

    def _loop_without_parameters(
        self,
        eqn: Any,
        body: Any,
        consts: list[Value],
        carry: list[Value],
        stacked: list[Value],
    ) -> list[Value]:
        """All signals that enter a loop without parameters are joined into one node."""
        entering = [*consts, *carry, *stacked]
        signals = [value for value in entering if isinstance(value, Signal)]
        if not signals:
            return [Const() for _ in eqn.outvars]
        live = [signal for signal in signals if not signal.is_discrete] or signals
        node = self.builder.join(live)
        leader = max(signal.leader for signal in live)

        def inside(value: Value, dims: _axes.Dims | None = None) -> Value:
            if not isinstance(value, Signal):
                return Const()
            return Signal(
                node if not value.is_discrete else value.node,
                _axes.plain([_axes.size_of(dim) for dim in value.dims])
                if dims is None
                else dims,
                leader,
                is_discrete=value.is_discrete,
            )

        consts, carry = list(map(inside, consts)), list(map(inside, carry))
        slices = [inside(_drop_axis(value)) for value in stacked]
        while True:  # until no constant of the carry turns into a signal any more
            results = self.run(body, [*consts, *carry, *slices])
            after = [
                inside(new) if isinstance(old, Const) else old
                for old, new in zip(carry, results[: len(carry)], strict=True)
            ]
            if after == carry:
                break
            carry = after
        return [
            inside(value, _axes.plain(var.aval.shape))
            for value, var in zip(results, eqn.outvars, strict=True)
        ]

    def _cond(self, eqn: Any, values: list[Value]) -> list[Value]:
        _, *operands = values
        branches = [self.run(branch, operands) for branch in eqn.params["branches"]]
        return [
            self._merge_results(list(results), shape_of(var))
            for results, var in zip(
                zip(*branches, strict=True), eqn.outvars, strict=True
            )
        ]

    def _merge_results(self, values: list[Value], shape: tuple[int, ...]) -> Value:
        """What is known of a value that may be any one of several."""
        signals = [value for value in values if isinstance(value, Signal)]
        if not signals:
            views = [v for d in values if isinstance(d, Derived) for v in d.views]
            return Derived(unite(views)) if views else Const()
        same = all(value == signals[0] for value in values)
        if same and len(signals[0].dims) == len(shape):
            return signals[0]
        live = [signal for signal in signals if not signal.is_discrete] or signals
        result = Signal(
            self.builder.join(live),
            _axes.plain(shape),
            max(signal.leader for signal in live),
            is_discrete=all(signal.is_discrete for signal in live),
        )
        for value in values:
            if isinstance(value, Derived):
                self.builder.use_vectors(value, result, "shift")
        return result


def _literal(atom: Any) -> Const:
    value = atom.val
    if getattr(value, "shape", ()) == () and isinstance(
        getattr(value, "item", lambda: value)(), int
    ):
        return Const(int(value))
    return Const()


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
        return dataclasses.replace(value, dims=value.dims[1:], is_direct=False)
    return value


def _all(values: Sequence[Value], *kinds: type) -> bool:
    return all(isinstance(value, kinds) for value in values)
