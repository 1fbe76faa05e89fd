"""Forward-mode derivatives of a training step, along one or several directions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from hpfree_jax._base import accumulator_dtype, is_inexact
from hpfree_jax.hypergradients._flat_root import flat_root_at_zero


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
    remaining = iter(values)
    return structure.unflatten(
        [next(remaining) if is_inexact(leaf) else None for leaf in leaves]
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


class Tangent(NamedTuple):
    """Derivative of the training state with respect to one hyperparameter, Z."""

    params: PyTree  # like params, in the precision of the scalars; None if not a float
    inner_state: PyTree | None  # like the inner state; None when the discount is 0


def hessian_vector_products(value_fn, params, tangents, weights):
    """By name, the leaves of H (weight Z), the tangent of the gradient."""
    gradient, floats = gradient_of("value_fn", value_fn, params)
    directions = [
        (
            [
                (weights[name] * z).astype(leaf.dtype)
                for z, leaf in zip(jax.tree.leaves(tangent.params), floats, strict=True)
            ],
        )
        for name, tangent in tangents.items()
    ]
    _, products, _ = push_forward(
        lambda floats: (gradient(floats), None), (floats,), directions
    )
    return {
        name: cast(product, accumulator_dtype())
        for name, product in zip(tangents, products, strict=True)
    }


def gradient_of(name, value_fn, params):
    """Returns the gradient as a function of the floating-point leaves, and these."""
    floats, merge = split(params)

    def value_of(floats):
        value = value_fn(merge(floats))
        is_scalar = getattr(value, "shape", None) == ()
        if not is_scalar or not jnp.issubdtype(value.dtype, jnp.floating):
            found = jax.tree.map(jnp.shape, value)
            raise ValueError(
                f"`{name}` must return a real scalar, got shape {found}. Return the "
                f"mean over the batch, without auxiliary output: {name}=lambda "
                "params: loss(params, batch).mean()."
            )
        return value

    # The conjugate is the steepest ascent of a complex leaf: what optax expects.
    gradient = jax.grad(value_of)
    return lambda floats: [jnp.conj(leaf) for leaf in gradient(floats)], floats


def step_with_tangents(
    inner,
    grads,
    inner_state,
    params,
    values,
    tangents,
    gradient_tangents,
    weights,
    wants_direct_tangents,
    extra_args,
):
    """One step of ``inner`` and its derivatives.

    Returns updates and inner state, and by name the tangents A (weight Z) + B of the
    state and (if wanted) the direct tangents B of the updates.
    """
    grad_leaves, merge_grads = split(grads)
    param_leaves, merge_params = split(params)
    state_leaves, merge_state = split(inner_state)

    def step(values, grad_leaves=grad_leaves, state_leaves=state_leaves, params=params):
        updates, new_state = optax.with_extra_args_support(inner(**values)).update(
            merge_grads(grad_leaves), merge_state(state_leaves), params, **extra_args
        )
        floats = (split(updates)[0], split(new_state)[0])
        return floats, (updates, new_state)

    def full_step(values, grad_leaves, state_leaves, param_leaves):
        return step(values, grad_leaves, state_leaves, merge_params(param_leaves))

    is_myopic = all(tangent is None for tangent in gradient_tangents.values())
    unit = {
        name: {other: jnp.full_like(values[other], other == name) for other in values}
        for name in values
    }
    primals: tuple[Any, ...]
    directions: list[tuple[Any, ...]]
    if is_myopic:
        function, primals = step, (values,)
        directions = [(unit[name],) for name in values]
    else:
        function = full_step
        primals = (values, grad_leaves, state_leaves, param_leaves)
        carry = lambda name, tree: [weights[name] * z for z in jax.tree.leaves(tree)]
        directions = [
            (
                unit[name],
                gradient_tangents[name],
                carry(name, tangents[name].inner_state),
                carry(name, tangents[name].params),
            )
            for name in values
        ]
        if wants_direct_tangents:
            zeros = [jax.tree.map(jnp.zeros_like, primal) for primal in primals[1:]]
            directions += [(unit[name], *zeros) for name in values]

    _, pushed, (updates, new_state) = push_forward(
        flat_root_at_zero(function), primals, directions
    )
    new_tangents = {}
    for name, direction, (update_tangent, state_tangent) in zip(
        values, directions, pushed, strict=False
    ):
        if is_myopic:
            new_tangents[name] = Tangent(like_floats(params, update_tangent), None)
        else:
            moved = [z + u for z, u in zip(direction[3], update_tangent, strict=True)]
            new_tangents[name] = Tangent(
                like_floats(params, moved), like_floats(new_state, state_tangent)
            )
    direct_tangents = None
    if wants_direct_tangents:
        direct_tangents = {
            name: like_floats(params, update_tangent)
            for name, (update_tangent, _) in zip(
                values, pushed[len(values) :], strict=True
            )
        }
    return updates, new_state, new_tangents, direct_tangents


def cast(leaves, dtype):
    """The leaves in at least the precision given."""
    return [leaf.astype(jnp.promote_types(leaf.dtype, dtype)) for leaf in leaves]
