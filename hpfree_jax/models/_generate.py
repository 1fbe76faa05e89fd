"""Text from a language model, one token after the other."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from hpfree_jax._base import check_in_interval
from hpfree_jax.models._gpt import GPT


def generate(
    model: GPT,
    tokens: Int[ArrayLike, "batch time"],
    num: int,
    key: Key[Array, ""],
    temperature: ArrayLike = 1.0,
) -> Int[Array, "batch num"]:
    r"""Draws tokens that continue a text.

    Each token is drawn from the softmax of the scores over :math:`\tau`, the
    temperature; at 0 it is the likeliest. The model sees the last ``context`` tokens.
    One compilation serves all texts of one shape and all temperatures. Each token
    costs a pass over the whole window: nothing is kept from the one before.

    Args:
      model: a :class:`GPT`, in training or evaluation mode; it is left as it is, and
        drops nothing out.
      tokens: the texts to continue, of at least one token each.
      num: how many tokens to draw.
      key: of the random numbers.
      temperature: :math:`\tau \ge 0`; of a JAX array this is not checked.

    Returns:
      The new tokens, of the dtype int32.

    Raises:
      ValueError: if a text is empty, or ``num`` or ``temperature`` is negative.

    >>> model = GPT(9, depth=1, width=4, heads=1, context=8, rngs=nnx.Rngs(0))
    >>> generate(model, jnp.zeros((2, 3), jnp.int32), 7, jax.random.key(0)).shape
    (2, 7)
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(
            "`tokens` must be (batch, time) with at least one token to continue, got "
            f"the shape {tokens.shape}."
        )
    check_in_interval("num", num, 0, math.inf, include_low=True)
    check_in_interval("temperature", temperature, 0, math.inf, include_low=True)
    graph, state = nnx.split(model)
    text = tokens[:, -model.context :].astype(jnp.int32)
    temperature = jnp.asarray(temperature, jnp.float32)
    return _continue(graph, num, state, text, key, temperature)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _continue(graph, num, state, text, key, temperature):
    model = nnx.merge(graph, state)
    model.eval()
    graph, state = nnx.split(model)
    start = text.shape[1]
    size = min(model.context, start + num)
    # The model is causal: what stands behind the text is not seen.
    window = jnp.pad(text, ((0, 0), (0, size - start)))

    def step(carry, key):
        window, length = carry
        # Copied: a loop in the model takes no variables made outside of this one.
        model = nnx.merge(graph, state, copy=True)
        scores = model(window)[:, length - 1].astype(jnp.float32)
        warm = scores / jnp.where(temperature > 0, temperature, 1.0)
        drawn = jax.random.categorical(key, warm)
        token = jnp.where(temperature > 0, drawn, jnp.argmax(scores, -1))
        token = token.astype(window.dtype)
        is_full = length == size
        window = jnp.where(is_full, jnp.roll(window, -1, 1), window)
        length = jnp.minimum(length + 1, size)
        return (window.at[:, length - 1].set(token), length), token

    keys = jax.random.split(key, num)
    _, drawn = jax.lax.scan(step, (window, jnp.int32(start)), keys)
    return drawn.T
