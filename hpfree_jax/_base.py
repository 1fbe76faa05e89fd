"""What every method of the library shares: argument checks, precision, states."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
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


def widen(leaf: Array) -> Array:
    """The leaf in the precision that it is computed in, float32 at least."""
    return leaf.astype(widened_dtype(leaf))


def widened_dtype(leaf: Any) -> DTypeLike:
    """The dtype in which a floating-point leaf is computed: float32 at least."""
    # Asked for here, also where a program forbids promotion elsewhere.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(leaf.dtype, accumulator_dtype())


def on_mesh_of(like: Array, value: ArrayLike) -> Array:
    """The number in the shape and dtype, and on the mesh, of an array."""
    # Not `value + 0 * like`, which is NaN for ever where `like` is infinite once.
    return jnp.zeros_like(like) + jnp.asarray(value, like.dtype)


def zero_update(leaf: Any, dtype: DTypeLike) -> Any:
    """An update that moves nothing, also for leaves that have no zero."""
    if leaf.dtype == jax.dtypes.float0 and dtype == leaf.dtype:
        return leaf
    if any(jnp.issubdtype(d, jax.dtypes.extended) for d in (leaf.dtype, dtype)):
        return leaf  # a PRNG key has no zero
    if leaf.dtype == jax.dtypes.float0:
        return jnp.zeros(leaf.shape, dtype)
    return jnp.zeros_like(leaf, dtype=dtype)


def finish_leaf(new: Array | None, update: Any, dtype: DTypeLike, is_finite: Any):
    """What a method returns for one leaf: the new update in the dtype of its parameter.

    Zero where the call was not finite, and for leaves without a new update. An update
    outside of the range of a narrower dtype becomes its largest number.
    """
    if new is None or not jnp.issubdtype(dtype, jnp.inexact):
        return zero_update(update, dtype)
    if jnp.finfo(dtype).max < jnp.finfo(new.dtype).max:
        new = saturate(new, _limit(dtype))
    return jnp.where(is_finite, new, 0).astype(dtype)


def finish(new: PyTree, updates: PyTree, params: PyTree, is_finite: Array) -> PyTree:
    """What a method returns, see :func:`finish_leaf`.

    Args:
      new: has a leaf for each floating-point leaf of ``updates``, in this order.
      updates: what the method was given.
      params: the parameters; None for the dtypes of ``updates``.
      is_finite: whether the call counts.
    """
    leaves = iter(jax.tree.leaves(new))
    return jax.tree.map(
        lambda update, param: finish_leaf(
            next(leaves) if is_inexact(update) else None, update, param.dtype, is_finite
        ),
        updates,
        updates if params is None else params,
    )


def all_finite(tree: PyTree) -> Array:
    """Whether all floating-point numbers of a tree are finite, of real or complex."""
    # Flags and not a sum of the numbers, which may overflow.
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    is_bad = [jnp.any(~jnp.isfinite(leaf)) for leaf in leaves]
    return total([flag.astype(accumulator_dtype()) for flag in is_bad]) == 0


def _limit(dtype: DTypeLike) -> float:
    """The largest number of a dtype, less what rounding may add."""
    return float(jnp.finfo(dtype).max) * (1 - 1e-6)


def saturate(array: Array, limit: Array | float | None = None) -> Array:
    """The array with parts beyond a limit set to it; None: the dtype's largest."""
    if limit is None:
        limit = _limit(array.dtype)
    if jnp.iscomplexobj(array):
        parts = (saturate(part, limit) for part in (array.real, array.imag))
        return jax.lax.complex(*parts)
    return jnp.clip(array, -limit, limit)


def scale_into_range(scale: Array, array: Array, dtype: DTypeLike) -> Array:
    """Scale times array, without the overflow of a dtype."""
    # The product comes last: what adds it may do both in one operation, which rounds
    # once.
    limit = min(_limit(dtype), _limit(array.dtype))
    return scale * saturate(array, limit / jnp.maximum(jnp.abs(scale), 1))


def divisible(positive: Array) -> Array:
    """The number, or the largest one whose reciprocal has full precision.

    XLA divides by many numbers at once by multiplying with a reciprocal, and a
    reciprocal below the smallest normal number counts as zero.
    """
    return jnp.minimum(positive, 1 / jnp.finfo(positive.dtype).tiny)


def select_state(is_finite: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new state if all was finite, else the old one."""
    keep = lambda new, old: new if new is old else jnp.where(is_finite, new, old)
    return jax.tree.map(keep, new, old)


def negate(update: Any) -> Any:
    """An update in the other direction; leaves that do not move stay as they are."""
    return -update if is_inexact(update) else update
