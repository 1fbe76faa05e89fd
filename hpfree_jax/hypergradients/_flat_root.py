"""Makes a function's square roots differentiable at zero."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Primitive
from jax.extend.core.primitives import cond_p, jit_p, sqrt_p
from jaxtyping import PyTree


def flat_root_at_zero(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, with 0 for the derivative of a square root at 0.

    Forward mode computes 0 * infinity = NaN for the root of a second moment that is
    zero. Where the root divides a numerator that is zero with it, as in Adam, in its
    relatives and in norms, every finite number in place of infinity gives the true
    derivative. Roots inside ``jit`` and ``cond`` are found; inside ``scan`` and
    ``while`` they are left as they are.
    """

    def wrapped(*args):
        leaves, structure = jax.tree.flatten(args)
        flat = lambda *leaves: function(*structure.unflatten(leaves))
        jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(jaxpr, *leaves))

    return wrapped


def _evaluate(closed: ClosedJaxpr, *args: Any) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        with equation.ctx.manager:
            outputs = _apply(equation.primitive, equation.params, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(primitive: Primitive, params: dict[str, Any], inputs: list[Any]) -> Any:
    if primitive is sqrt_p:
        return [_sqrt(*inputs)]
    if primitive is jit_p:
        return _evaluate(params["jaxpr"], *inputs)
    if primitive is cond_p:
        index, *operands = inputs
        branches = [
            lambda *operands, branch=branch: _evaluate(branch, *operands)
            for branch in params["branches"]
        ]
        return jax.lax.switch(index, branches, *operands)
    bound = primitive.get_bind_params(params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    output = primitive.bind(*functions, *inputs, **params)
    return output if primitive.multiple_results else [output]


@jax.custom_jvp
def _sqrt(x):
    return jnp.sqrt(x)


@_sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    root = jnp.sqrt(x)
    return root, tangent * (0.5 / jnp.where(x == 0, jnp.inf, root))
