"""Equations of a jaxpr: shapes, source lines, and errors that name them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core, source_info_util

from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._values import (
    Derived,
    Signal,
    Value,
    derived_in,
    unite,
)

Eqn = core.JaxprEqn
LIBRARIES = {"jax", "flax", "equinox", "haiku", "hpfree_jax", "contextlib"}


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


def named(eqn: Eqn) -> str:
    """The primitive of an equation and its source line, for a message."""
    line = where(eqn)
    return f"`{eqn.primitive.name}`" + (f" at {line}" if line else "")


@functools.cache
def has_no_derivative(source: Any, target: Any) -> bool:
    """Whether a function between these dtypes has none: to booleans, or by rounding."""
    if jnp.issubdtype(target, jnp.bool_):
        return True
    return jnp.issubdtype(source, jnp.inexact) and jnp.issubdtype(target, jnp.integer)


def with_dtype(signal: Signal, var: Any) -> Signal:
    """The same signal, through which no derivative flows if it is boolean."""
    if signal.blocks_gradient or not has_no_derivative(var.aval.dtype, var.aval.dtype):
        return signal
    return dataclasses.replace(signal, blocks_gradient=True)


def opaque(eqn: Eqn, values: Sequence[Value], var: Any = None) -> Derived:
    """Parameter-derived, by an operation behind which axes cannot be followed."""
    dims, lost = _axes.plain(shape_of(var or eqn.outvars[0])), named(eqn)
    return Derived(
        unite(
            [
                dataclasses.replace(view, dims=dims, lost=lost)
                for value in derived_in(values)
                for view in value.views
            ]
        )
    )
