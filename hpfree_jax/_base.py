"""What every method of the library shares: argument checks, precision, states."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree


def transformation(init_fn: Callable[..., Any], update_fn: Callable[..., Any]):
    """Makes a method's two functions a transformation that accepts extra arguments.

    Unannotated on purpose: optax types ``update`` more narrowly than it calls it.
    """
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_in_interval(
    name: str, value: Any, low: float, high: float, *, include_low: bool = False
) -> None:
    """Raises unless a number lies in the interval; of JAX scalars, takes any.

    Their values may be traced, or come from a schedule that starts outside: arguments
    are JAX scalars under :func:`optax.inject_hyperparams`.
    """
    if isinstance(value, jax.Array) and value.ndim == 0:
        return
    is_number = isinstance(value, int | float | np.number) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    )
    if isinstance(value, bool) or not is_number:
        raise TypeError(
            f"`{name}` must be a number or a JAX scalar, got {value!r}. For a "
            "schedule, wrap the factory in optax.inject_hyperparams."
        )
    value = float(value)
    inside = (low <= value if include_low else low < value) and value < high
    if math.isnan(value) or not inside:
        raise ValueError(
            f"`{name}` must lie in {'[' if include_low else '('}{low}, {high}), "
            f"got {value}."
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises unless the value is one of the words that the argument accepts."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")


def accumulator_dtype() -> DTypeLike:
    """The dtype of every scalar and every reduction: float32, and float64 under x64.

    It does not depend on the parameters, so that sums over bfloat16 leaves neither
    stall nor overflow.
    """
    return jnp.zeros((), float).dtype


def scalar_like(params: PyTree, value: float, dtype: DTypeLike) -> Array:
    """A scalar that lives on the mesh of the parameters, replicated.

    A plain ``jnp.zeros(())`` belongs to no mesh unless one is set as the current one,
    while every reduction over sharded parameters belongs to theirs. Starting a state
    on the parameters' mesh keeps ``jax.typeof`` of the state the same from the start.
    """
    leaves = [leaf for leaf in jax.tree.leaves(params) if is_inexact(leaf)]
    if not leaves:
        return jnp.full((), value, dtype)
    smallest = min(leaves, key=lambda leaf: leaf.size)
    # Values are never read: zeros_like looks at the shape, the dtype and the sharding.
    zero = jnp.sum(jnp.zeros_like(smallest, dtype=dtype), dtype=dtype)
    return zero + jnp.asarray(value, dtype)


def total(scalars: Sequence[Array]) -> Array:
    """The sum of scalars, one per leaf; a zero if there are none.

    A sum over all leaves that each leaf's update uses should come from here. XLA copies
    a chain of cheap additions into each of its users, which makes the program grow with
    the square of the number of leaves and take minutes to compile; a cumulative sum it
    computes once.
    """
    if not scalars:
        return jnp.zeros((), accumulator_dtype())
    return jnp.cumsum(jnp.stack(scalars))[-1]


def replicated(array: Array) -> Array:
    """The array on every device of its mesh, if it lies on an explicit one in parts."""
    sharding = jax.typeof(array).sharding
    if all(axis is None for axis in sharding.spec):
        return array
    whole = jax.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(array, whole)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf holds real or complex floating-point numbers."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def zero_momentum(leaf: Any) -> Any:
    """What a moving average of a leaf's gradients starts from, in float32 at least."""
    if is_inexact(leaf):
        return jnp.zeros_like(
            leaf, dtype=jnp.promote_types(leaf.dtype, accumulator_dtype())
        )
    return stay_put(leaf, leaf.dtype)  # never used; keeps the tree like params


def stay_put(leaf: Any, dtype: DTypeLike) -> Any:
    """An update that moves nothing, also for leaves that have no zero."""
    if leaf.dtype == jax.dtypes.float0:
        return leaf if dtype == leaf.dtype else jnp.zeros(leaf.shape, dtype)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf  # a PRNG key has no zero
    return jnp.zeros_like(leaf, dtype=dtype)


def all_finite(tree: PyTree) -> Array:
    """Whether all floating-point numbers of a tree are finite."""
    # A sum that one non-finite entry spoils, and that no finite ones do.
    zeros = [jnp.sum(0 * jnp.abs(x)) for x in jax.tree.leaves(tree) if is_inexact(x)]
    return jnp.isfinite(total([zero.astype(accumulator_dtype()) for zero in zeros]))


def keep_if(finite: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new state if all was finite, else the old one."""
    keep = lambda new, old: new if new is old else jnp.where(finite, new, old)
    return jax.tree.map(keep, new, old)


def negate(update: Any) -> Any:
    """An update in the other direction; leaves that do not move stay as they are."""
    return -update if is_inexact(update) else update
