"""GPT, a language model of causal attention."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, normal
from jax.typing import DTypeLike

from hpfree_jax.models._attention import causal_attention
from hpfree_jax.models._blocks import make_dropout, run_blocks
from hpfree_jax.models._checks import check_rate, check_sizes

INIT_SCALE = 0.02


class GPT(nnx.Module):
    r"""A causal transformer with normalisation before each branch, as GPT-2.

    Token and position embeddings are added; :math:`n` blocks
    :math:`x + A(N(x))`, then :math:`x + M(N(x))`; layer normalisation :math:`N`; and
    logits of the next token by the transposed token embedding. :math:`A` is attention
    of several heads in which a position sees itself and what comes before it, by
    :func:`jax.nn.dot_product_attention` (on a CPU, the same in less time); :math:`M` is
    two dense layers with four times the width in between and a GELU (in its form with
    tanh).

    Weights are normal with the standard deviation 0.02, and :math:`0.02/\sqrt{2n}` for
    the last layer of each branch.

    Args:
      vocabulary: vocabulary size.
      depth: :math:`n`, transformer blocks.
      width: embedding width, a multiple of ``heads``.
      heads: attention heads.
      context: context length, in tokens.
      dropout: dropout rate after the embedding and after each branch, in [0, 1).
      bias: whether dense layers and normalisations add a bias.
      affine: whether normalisations have a scale.
      tied: ties the output layer to the token embedding; otherwise it is a dense layer
        without a bias.
      remat: rematerialises blocks in the backward pass, to save memory.
      scan: runs the blocks in one loop with stacked parameters, a leading axis of size
        ``depth``: compiled once and not ``depth`` times. As Flax has it, a function
        under ``jax.jit`` then needs the model as an argument, or merges it inside.
      kernel_init: initialiser of all weights; None is as above.
      dtype: of the computation; None promotes parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights, and of dropout.

    Raises:
      ValueError: if a number is out of range, or if ``heads`` do not divide ``width``;
        in the call, if the input is no batch of tokens or longer than ``context``.

    References:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019, and
      Karpathy's nanoGPT, for the initialisation of biases and positions and the version
      without biases. Differs: no dropout of attention weights, for which
      ``dot_product_attention`` has no argument.

    >>> def scores(tokens):
    ...     model = GPT(65, depth=2, width=8, heads=2, context=16, rngs=nnx.Rngs(0))
    ...     return model(tokens)
    >>> nnx.eval_shape(scores, jnp.zeros((3, 16), jnp.int32)).shape  # computes nothing
    (3, 16, 65)
    """

    def __init__(
        self,
        vocabulary: int,
        depth: int,
        width: int,
        heads: int,
        context: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        affine: bool = True,
        tied: bool = True,
        remat: bool = False,
        scan: bool = False,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            vocabulary=vocabulary,
            depth=depth,
            width=width,
            heads=heads,
            context=context,
        )
        check_rate(dropout=dropout)
        if width % heads:
            raise ValueError(
                f"`width` must be a multiple of `heads`, got {width} and {heads}."
            )
        common = {"dtype": dtype, "param_dtype": param_dtype}
        usual = kernel_init or normal(INIT_SCALE)
        self.context, self.remat, self.scan = context, remat, scan
        self.tokens = nnx.Embed(
            vocabulary, width, embedding_init=usual, rngs=rngs, **common
        )
        self.positions = nnx.Embed(
            context, width, embedding_init=usual, rngs=rngs, **common
        )
        self.dropout = make_dropout(dropout, rngs)
        settings = {
            "width": width,
            "heads": heads,
            "dropout": dropout,
            "bias": bias,
            "affine": affine,
            "kernel_init": usual,
            "last_init": kernel_init or normal(INIT_SCALE / math.sqrt(2 * depth)),
            **common,
        }
        self.blocks: Any = (
            _stack(depth, settings, rngs)
            if scan
            else nnx.List([_Block(rngs, **settings) for _ in range(depth)])
        )
        self.norm = _norm(width, bias, affine, rngs, common)
        self.readout = (
            None if tied else _dense(width, vocabulary, usual, False, rngs, common)
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps integers ``(batch, time)`` to scores ``(batch, time, vocabulary)``."""
        _check_tokens(tokens, self.context)
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        x = self.dropout(x)
        if self.scan:
            x = _run_stack(self.blocks, x, remat=self.remat)
        else:
            x = run_blocks(self.blocks, x, remat=self.remat)
        return self.scores(x)

    def scores(self, x: jax.Array) -> jax.Array:
        """Maps what the last block returns to scores."""
        x = self.norm(x)
        return self.tokens.attend(x) if self.readout is None else self.readout(x)


class _Block(nnx.Module):
    """Attention and two dense layers, each added to what comes in."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        width: int,
        heads: int,
        dropout: float,
        bias: bool,
        affine: bool,
        kernel_init: Initializer,
        last_init: Initializer,
        **common: Any,
    ):
        def dense(d_in, d_out, init):
            return _dense(d_in, d_out, init, bias, rngs, common)

        self.heads = heads
        self.attention_norm = _norm(width, bias, affine, rngs, common)
        self.qkv = dense(width, 3 * width, kernel_init)
        self.out = dense(width, width, last_init)
        self.mlp_norm = _norm(width, bias, affine, rngs, common)
        self.up = dense(width, 4 * width, kernel_init)
        self.down = dense(4 * width, width, last_init)
        self.dropout = make_dropout(dropout, rngs)

    def __call__(self, x):
        return self.add(x, causal_attention(*self.project(x)))

    def project(self, x):
        """Queries, keys and values, (batch, time, heads, features) each."""
        parts = jnp.split(self.qkv(self.attention_norm(x)), 3, axis=-1)
        return [part.reshape(*part.shape[:-1], self.heads, -1) for part in parts]

    def add(self, x, attended):
        """Adds to the input what was attended to, and what the dense layers make."""
        x = x + self.dropout(self.out(attended.reshape(x.shape)))
        # Of matrices: of arrays with a time axis, XLA computes the gradient of the GELU
        # slowly on a CPU; forward and backward take 1.4 times as long.
        y = self.mlp_norm(x).reshape(-1, x.shape[-1])
        y = self.down(nnx.gelu(self.up(y)))
        return x + self.dropout(y.reshape(x.shape))


def _dense(d_in, d_out, kernel_init, bias, rngs, common):
    return nnx.Linear(
        d_in, d_out, use_bias=bias, kernel_init=kernel_init, rngs=rngs, **common
    )


def _norm(width, bias, affine, rngs, common):
    return nnx.LayerNorm(
        width, epsilon=1e-5, use_bias=bias, use_scale=affine, rngs=rngs, **common
    )


def _stack(depth, settings, rngs):
    """One block whose variables have a leading axis of that size."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap
    def make(rngs):
        return _Block(rngs, **settings)

    return make(rngs)


def _run_stack(blocks, x, *, remat):
    def apply(x, block):
        return block(x)

    # Within a loop, XLA has nothing that it could merge with what remat repeats.
    step = nnx.remat(apply, prevent_cse=False) if remat else apply
    return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, blocks)


def _check_tokens(tokens, context):
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            "GPT takes a batch of integer tokens (batch, time), got the shape "
            f"{tokens.shape} of {tokens.dtype}."
        )
    if tokens.shape[1] > context:
        raise ValueError(
            f"GPT takes at most `context` = {context} tokens, got {tokens.shape[1]}."
        )
