"""Two pieces of a GPT block, forward and backward, as written plainly and as we do.

    python benchmarks/gpt_pieces.py

Attention by ``jax.nn.dot_product_attention`` and by ``causal_attention``, and the dense
layers with a GELU between them on arrays (batch, time, features) and on matrices, at
the sizes of ``gpt_tokens.py``. The candidates take turns; the fastest of each is shown.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from _timing import interleaved

from hpfree_jax.models._attention import causal_attention

WIDTH, HEADS, CONTEXT = 384, 6, 256


def attention(attend, x):
    """From queries, keys and values side by side."""
    heads = lambda part: part.reshape(*part.shape[:-1], HEADS, -1)
    return attend(*map(heads, jnp.split(x, 3, axis=-1)))


def dense(x, up, down):
    return jax.nn.gelu(x @ up) @ down


def make_candidates(batch):
    """Compiled functions without arguments, by name."""
    normal = lambda number, *shape: jax.random.normal(jax.random.key(number), shape)
    qkv, x = normal(0, batch, CONTEXT, 3 * WIDTH), normal(1, batch, CONTEXT, WIDTH)
    layers = (normal(2, WIDTH, 4 * WIDTH), normal(3, 4 * WIDTH, WIDTH))
    plain = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    rows = lambda x, *layers: dense(x.reshape(-1, WIDTH), *layers).reshape(x.shape)
    candidates = {
        "attention, JAX's": (functools.partial(attention, plain), (qkv,)),
        "attention, ours": (functools.partial(attention, causal_attention), (qkv,)),
        "dense, on arrays": (dense, (x, *layers)),
        "dense, on matrices": (rows, (x, *layers)),
    }
    return {
        name: compile_both(function, arguments, x)
        for name, (function, arguments) in candidates.items()
    }


def compile_both(function: Callable, arguments, cotangent):
    """Forward and backward."""

    @jax.jit
    def run(cotangent, *arguments):
        result, backward = jax.vjp(function, *arguments)
        return backward(cotangent.reshape(result.shape))

    return lambda: jax.block_until_ready(run(cotangent, *arguments))


def main():
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="Pieces of a GPT block")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    seconds = interleaved(make_candidates(args.batch), args.rounds)
    for name, taken in seconds.items():
        print(f"{name:<20}{1e3 * min(taken):8.1f} ms")


if __name__ == "__main__":
    main()
