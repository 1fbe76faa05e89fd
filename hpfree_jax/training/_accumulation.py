"""A step's loss and gradient from parts of its batch, one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hpfree_jax._base import accumulator_dtype

# From parameters, the model's state and a batch to the mean loss over the batch, and to
# its accuracy and the new state.
LossFn = Callable[[PyTree, PyTree, Any], tuple[jax.Array, tuple[jax.Array, PyTree]]]


def accumulated_grad(loss_fn: LossFn, parts: int) -> Callable:
    """Returns what ``jax.value_and_grad(loss_fn, has_aux=True)`` would, from parts.

    Losses and gradients of the parts are added in float32, or in the parameters' dtype
    where that is wider. The model's state goes from part to part: statistics move with
    each, and each has its own dropout.

    Args:
      loss_fn: the loss.
      parts: how many equal parts of a batch are in memory one after another.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        return grad_fn

    def value_and_grad(params, model_state, batch):
        def body(carry, part):
            sums, model_state = carry
            (value, (accuracy, model_state)), grads = grad_fn(params, model_state, part)
            found = (value, accuracy, grads)
            sums = jax.tree.map(lambda sum, x: sum + x.astype(sum.dtype), sums, found)
            return (sums, model_state), None

        zero = jnp.zeros((), accumulator_dtype())
        wide = lambda p: jnp.zeros_like(p, jnp.promote_types(p.dtype, jnp.float32))
        sums = (zero, zero, jax.tree.map(wide, params))
        (sums, model_state), _ = _over_parts(body, (sums, model_state), batch, parts)
        value, accuracy, grads = jax.tree.map(lambda sum: sum / parts, sums)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        return (value, (accuracy, model_state)), grads

    return value_and_grad


def accumulated_loss(loss_fn: LossFn, parts: int) -> Callable:
    """Returns the loss alone, a function that can be differentiated again and again.

    Its value is that of :func:`accumulated_grad`. Each part is computed once more in
    the backward pass, so that memory holds one at a time.
    """
    if parts == 1:
        return lambda params, model_state, batch: loss_fn(params, model_state, batch)[0]

    def value(params, model_state, batch):
        @jax.checkpoint
        def body(carry, part):
            total, model_state = carry
            value, (_, model_state) = loss_fn(params, model_state, part)
            return (total + value.astype(total.dtype), model_state), None

        first = (jnp.zeros((), accumulator_dtype()), model_state)
        (total, _), _ = _over_parts(body, first, batch, parts)
        return total / parts

    return value


def _over_parts(body, first, batch, parts: int):
    """Scans over parts of a batch; without a loop where a CPU has convolutions.

    There, XLA runs them about twenty times slower in a loop.
    """
    divide = lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:])
    has_loop = jax.default_backend() != "cpu" or batch[0].ndim < 4  # no images
    unroll = 1 if has_loop else parts
    return jax.lax.scan(body, first, jax.tree.map(divide, batch), unroll=unroll)
