"""Forward-mode derivatives of a training step, along one or several directions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Primitive
from jax.extend.core.primitives import cond_p, jit_p, sqrt_p
from jaxtyping import Array, PyTree

from hpfree_jax._base import is_inexact


def split(tree: PyTree) -> tuple[list[Array], Callable[[Sequence[Any]], PyTree]]:
    """Returns the floating-point leaves, and what puts such leaves into the tree.

    Integers, booleans and random keys have no tangent: they stay where they are.
    """
    leaves, structure = jax.tree.flatten(tree)
    places = [place for place, leaf in enumerate(leaves) if is_inexact(leaf)]

    def merge(floats):
        merged = list(leaves)
        for place, value in zip(places, floats, strict=True):
            merged[place] = value
        return structure.unflatten(merged)

    return [leaves[place] for place in places], merge


def like_floats(tree: PyTree, values: Sequence[Any]) -> PyTree:
    """The tree with values for its floating-point leaves and None for the others."""
    leaves, structure = jax.tree.flatten(tree)
    values = iter(values)
    return structure.unflatten(
        [next(values) if is_inexact(leaf) else None for leaf in leaves]
    )


def push_forward(
    function: Callable[..., tuple[PyTree, PyTree]],
    primals: tuple[PyTree, ...],
    tangents: Sequence[tuple[PyTree, ...]],
) -> tuple[PyTree, list[PyTree], PyTree]:
    """Evaluates ``function``, and its derivative along each of the directions.

    Args:
      function: returns (output, auxiliary output without a derivative).
      primals: where to evaluate it.
      tangents: one tuple like ``primals`` for each direction.

    Returns:
      Output, its tangents, auxiliary output. All directions share one linearisation;
      a single one needs none, and then nothing is kept for later.
    """
    if len(tangents) == 1:
        output, tangent, aux = jax.jvp(function, primals, tangents[0], has_aux=True)
        return output, [tangent], aux
    output, linear, aux = jax.linearize(function, *primals, has_aux=True)
    # A loop and not vmap: the same FLOPs, no stacked copies, each leaf as it is.
    return output, [linear(*direction) for direction in tangents], aux


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
    slope = jnp.where(x == 0, 0, 0.5 / jnp.where(x == 0, 1, root))
    return root, slope * tangent
