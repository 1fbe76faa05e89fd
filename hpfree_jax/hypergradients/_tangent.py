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


class Tangent(NamedTuple):
    """Derivative of the training state with respect to one hyperparameter, Z."""

    params: PyTree  # like params, in the precision of the scalars; None if not a float
    inner_state: PyTree | None  # like the inner state; None when the discount is 0


def weighted(weight, leaves):
    return [weight * leaf for leaf in leaves]


def hessian_vector_products(value_fn, params, tangents, weights):
    """By name, the leaves of H (weight Z), the tangent of the gradient."""
    gradient, floats = gradient_of("value_fn", value_fn, params)
    directions = []
    for name, tangent in tangents.items():
        carried = weighted(weights[name], jax.tree.leaves(tangent.params))
        directions.append(
            [z.astype(leaf.dtype) for z, leaf in zip(carried, floats, strict=True)]
        )
    if len(directions) == 1:
        _, product = jax.jvp(gradient, (floats,), (directions[0],))
        products = [product]
    else:
        _, linear = jax.linearize(gradient, floats)
        # A loop and not vmap: the same FLOPs, no stacked copies, each leaf as it is.
        products = [linear(direction) for direction in directions]
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

    def step(values, grad_leaves, state_leaves, param_leaves):
        updates, new_state = optax.with_extra_args_support(inner(**values)).update(
            merge_grads(grad_leaves),
            merge_state(state_leaves),
            merge_params(param_leaves),
            **extra_args,
        )
        floats = (split(updates)[0], split(new_state)[0])
        return floats, (updates, new_state)

    step = flat_root_at_zero(step)
    here = (grad_leaves, state_leaves, param_leaves)
    aux: Any = None  # updates and inner state, the same in each evaluation
    new_tangents, direct_tangents = {}, {}
    # One evaluation for each scalar: along it alone, the derivatives with respect to
    # the others cost nothing, and XLA merges what the evaluations have in common.
    for name, value in values.items():
        along = lambda value, *here, name=name: step({**values, name: value}, *here)
        one = jnp.ones_like(value)
        if wants_direct_tangents or gradient_tangents[name] is None:
            _, (direct, _), aux = jax.jvp(
                lambda value, along=along: along(value, *here),
                (value,),
                (one,),
                has_aux=True,
            )
            direct_tangents[name] = like_floats(params, direct)
        if gradient_tangents[name] is None:
            new_tangents[name] = Tangent(direct_tangents[name], None)
            continue
        carried = [
            weighted(weights[name], jax.tree.leaves(tree))
            for tree in (tangents[name].inner_state, tangents[name].params)
        ]
        _, (update_tangent, state_tangent), aux = jax.jvp(
            along,
            (value, *here),
            (one, gradient_tangents[name], *carried),
            has_aux=True,
        )
        moved = [z + u for z, u in zip(carried[1], update_tangent, strict=True)]
        new_tangents[name] = Tangent(
            like_floats(params, moved), like_floats(inner_state, state_tangent)
        )
    return *aux, new_tangents, direct_tangents if wants_direct_tangents else None


def cast(leaves, dtype):
    """The leaves in at least the precision given."""
    # Wanted here, also where a program forbids promotion elsewhere.
    with jax.numpy_dtype_promotion("standard"):
        return [leaf.astype(jnp.promote_types(leaf.dtype, dtype)) for leaf in leaves]
