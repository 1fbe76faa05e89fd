"""The rules of the tracer: one table from the name of a primitive to what it does.

To teach the tracer a primitive, write its rule beside its family::

    @rule("my_primitive")
    def _my_primitive(tracer, eqn, values):
        return [...]  # one abstract value for each result

A primitive without a rule is handled by the interpreter, which raises where it meets
parameters that it cannot follow.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hpfree_jax.architecture._tracer._build import Builder
from hpfree_jax.architecture._tracer._equations import Eqn
from hpfree_jax.architecture._tracer._values import Value


class Tracer(Protocol):
    """What a rule needs of the interpreter that applies it."""

    builder: Builder

    def run(self, closed: Any, values: Sequence[Value]) -> list[Value]:
        """The results of an inner jaxpr, given its arguments."""
        ...


Apply = Callable[[Tracer, Eqn, Sequence[Value]], Sequence[Value]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a primitive does to abstract values.

    Attributes:
      apply: ``(tracer, eqn, values) -> results``, where an operand depends on
        parameters or inputs, or where there is no operand.
      evaluate: the scalar result, given known integer operands; None if it is not
        needed. Loop counters and indices are followed this way.
      keeps_iota: whether an enumeration of positions stays one.
    """

    apply: Apply
    evaluate: Callable[..., int | None] | None = None
    keeps_iota: bool = False


RULES: dict[str, Rule] = {}


def rule(
    *names: str,
    evaluate: Callable[..., int | None] | None = None,
    keeps_iota: bool = False,
) -> Callable[[Apply], Apply]:
    """Registers a function as the rule of the primitives of these names.

    Raises:
      ValueError: if one of them already has a rule.
    """

    def register(apply: Apply) -> Apply:
        for name in names:
            if name in RULES:
                raise ValueError(
                    f"The primitive `{name}` already has a rule, "
                    f"`{RULES[name].apply.__qualname__}`."
                )
            RULES[name] = Rule(apply, evaluate, keeps_iota)
        return apply

    return register
