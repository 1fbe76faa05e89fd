"""Walks through a jaxpr and applies the rule of each primitive."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

# Each of these modules registers the rules of a family of primitives.
from hpfree_jax.architecture._tracer import _contractions as _contractions
from hpfree_jax.architecture._tracer import _control_flow as _control_flow
from hpfree_jax.architecture._tracer import _elementwise as _elementwise
from hpfree_jax.architecture._tracer import _slices as _slices
from hpfree_jax.architecture._tracer._build import Builder
from hpfree_jax.architecture._tracer._equations import (
    Eqn,
    UntraceableError,
    shape_of,
    unsupported,
)
from hpfree_jax.architecture._tracer._registry import RULES
from hpfree_jax.architecture._tracer._structural import unknown
from hpfree_jax.architecture._tracer._values import Const, Value, are


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

    def _equation(self, eqn: Eqn, values: list[Value]) -> Sequence[Value]:
        if values and are(values, Const):
            return _constants(eqn, values)
        rule = RULES.get(eqn.primitive.name)
        try:
            return (rule.apply if rule else unknown)(self, eqn, values)
        except UntraceableError as error:
            raise error.inside(eqn) from None
        except NotImplementedError as error:
            raise unsupported(eqn, str(error)) from None


def _constants(eqn: Eqn, values: Sequence[Any]) -> list[Value]:
    """Results that depend on constants alone; integers are followed where known."""
    rule = RULES.get(eqn.primitive.name)
    is_iota = bool(rule and rule.keeps_iota) and any(value.is_iota for value in values)
    result = None
    if rule and rule.evaluate and all(shape_of(var) == () for var in eqn.outvars):
        known = [value.value for value in values]
        result = rule.evaluate(*known) if None not in known else None
    return [Const(result, is_iota) for _ in eqn.outvars]


def _literal(atom: Any) -> Const:
    value = atom.val
    if getattr(value, "shape", ()) == () and isinstance(
        getattr(value, "item", lambda: value)(), int
    ):
        return Const(int(value))
    return Const()
