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
    One compilation serves all texts of one shape and all temperatures. Up to
    ``context`` tokens, keys and values are kept, and a token costs a pass over one
    position. From there on each costs a pass over the whole window: it slides, so that
    the positions of all its tokens change.

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
    # Copied: a loop in the model takes no variables made outside of this one.
    restore = lambda: nnx.merge(graph, state, copy=True)
    start, keys = text.shape[1], jax.random.split(key, num)
    size = min(model.context, start + num)
    window = jnp.pad(text, ((0, 0), (0, size - start)))

    def draw(key, scores):
        scores = scores.astype(jnp.float32)
        warm = scores / jnp.where(temperature > 0, temperature, 1.0)
        drawn = jax.random.categorical(key, warm)
        token = jnp.where(temperature > 0, drawn, jnp.argmax(scores, -1))
        return token.astype(window.dtype)

    def grow(carry, place):
        """From the token at a place, the next one, unless the text has it."""
        window, caches = carry
        scores, caches = cached_scores(restore(), caches, window[:, place], place)
        token = draw(keys[place + 1 - start], scores)
        token = jnp.where(place + 1 < start, window[:, place + 1], token)
        return (window.at[:, place + 1].set(token), caches), None

    def slide(window, key):
        """From a full window, the next token."""
        token = draw(key, restore()(window)[:, -1])
        return jnp.roll(window, -1, 1).at[:, -1].set(token), token

    num_grown = size - start
    if num_grown:
        first = (window, empty_caches(model, len(text), size))
        (window, _), _ = jax.lax.scan(grow, first, jnp.arange(size - 1))
    grown = window[:, start:]
    _, drawn = jax.lax.scan(slide, window, keys[num_grown:])
    return jnp.concatenate([grown, drawn.T], axis=1)


def empty_caches(model: GPT, batch: int, size: int):
    """Keys and values of every block for that many tokens, zeros."""

    def project(block):
        return block.project(model.tokens(jnp.zeros((batch, 1), jnp.int32)))[1:]

    return [
        [jnp.zeros((batch, size, *x.shape[2:]), x.dtype) for x in project(block)]
        for block in _blocks(model)
    ]


def cached_scores(model: GPT, caches, tokens: jax.Array, place: ArrayLike):
    """Scores after the tokens, ``(batch,)``, at a place, and the caches with it."""
    x = model.tokens(tokens[:, None]) + model.positions(jnp.asarray(place))
    filled = []
    for block, cache in zip(_blocks(model), caches, strict=True):
        queries, *parts = block.project(x)
        cache = [
            old.at[:, place].set(part[:, 0])
            for old, part in zip(cache, parts, strict=True)
        ]
        is_seen = jnp.arange(cache[0].shape[1]) <= place
        attended = jax.nn.dot_product_attention(
            queries, *cache, mask=is_seen[None, None, None]
        )
        x = block.add(x, attended)
        filled.append(cache)
    return model.scores(x)[:, 0], filled


def _blocks(model: GPT):
    """The blocks one by one, also of a stack."""
    if not model.scan:
        return list(model.blocks)
    graph, state = nnx.split(model.blocks)
    depth = len(jax.tree.leaves(state)[0])
    part = lambda i: jax.tree.map(lambda x: x[i], state)
    return [nnx.merge(graph, part(i)) for i in range(depth)]
