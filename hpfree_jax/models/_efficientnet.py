"""EfficientNet-B0, a network of inverted bottlenecks with gates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, variance_scaling
from jax.typing import DTypeLike

from hpfree_jax.models._blocks import make_dropout, run_blocks
from hpfree_jax.models._checks import check_rate, check_sizes
from hpfree_jax.models._image_layers import ConvNorm, ImageLayers, he_normal


class _Stage(NamedTuple):
    expansion: int
    features: int
    blocks: int
    stride: int  # of the first block
    size: int  # of the depthwise kernels


B0 = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)
STEM, HEAD = 32, 1280
GATE_SHARE = 4  # a gate's hidden units are the block's input channels over this

# As the authors draw it: uniform up to 1 / sqrt(number of classes).
UNIFORM_FAN_OUT = variance_scaling(1 / 3, "fan_out", "uniform")


class EfficientNetB0(nnx.Module):
    r"""EfficientNet-B0: stem, 16 inverted bottlenecks, head, classifier.

    A block of :math:`c` channels widens them six times by a convolution 1x1 (the first
    block does not), filters each by one of its own (depthwise, 3x3 or 5x5), scales each
    by a gate, and projects by 1x1; where the shape stays, the input is added. The gate
    is :math:`\sigma(W_2 s(W_1 \bar x))`, with :math:`\bar x` the mean over pixels and
    :math:`c / 4` units in between. Batch normalisation follows every convolution, then
    :math:`s(z) = z \sigma(z)` unless it is a projection. Images are halved five times.

    Args:
      num_classes: outputs.
      in_channels: channels of an image.
      dropout: dropout rate before the classifier, in [0, 1).
      drop_path: stochastic-depth rate of the last block, in [0, 1); it grows linearly
        from 0 at the first block.
      remat: rematerialises blocks in the backward pass, to save memory.
      kernel_init: initialiser of all kernels. None is as the authors have it: He's
        normal distribution by fan-out, a group's own for depthwise kernels; the
        classifier uniformly up to :math:`1/\sqrt{\text{num\_classes}}`.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights, and of dropout.

    Raises:
      ValueError: if a number is out of range.

    References:
      Tan and Le, `EfficientNet <https://arxiv.org/abs/1905.11946>`_, 2019. Differs: at
      stride 2 images are padded alike on both sides, as in the code of AutoWU's
      experiments.

    >>> model = nnx.eval_shape(lambda: EfficientNetB0(1000, rngs=nnx.Rngs(0)))
    >>> len(model.blocks)
    16
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        remat: bool = False,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(num_classes=num_classes, in_channels=in_channels)
        check_rate(dropout=dropout, drop_path=drop_path)
        make = ImageLayers(
            rngs,
            kernel_init=kernel_init,
            dtype=dtype,
            param_dtype=param_dtype,
            momentum=0.99,
            epsilon=1e-3,
        )
        self.remat = remat
        self.stem = ConvNorm(make, in_channels, STEM, 3, 2, activation=nnx.silu)
        blocks, features = [], STEM
        total = sum(stage.blocks for stage in B0)
        for stage in B0:
            for place in range(stage.blocks):
                rate = drop_path * len(blocks) / total
                stride = 1 if place else stage.stride
                blocks.append(_Block(make, features, stage, stride, rate))
                features = stage.features
        self.blocks = nnx.List(blocks)
        self.head = ConvNorm(make, features, HEAD, 1, activation=nnx.silu)
        self.dropout = make_dropout(dropout, rngs)
        self.classifier = make.dense(HEAD, num_classes, kernel_init=UNIFORM_FAN_OUT)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        x = run_blocks(self.blocks, self.stem(x), remat=self.remat)
        return self.classifier(self.dropout(self.head(x).mean((1, 2))))


class _Block(nnx.Module):
    """An inverted bottleneck."""

    def __init__(self, make, d_in: int, stage: _Stage, stride: int, drop_path: float):
        wide = d_in * stage.expansion
        self.expand = (
            ConvNorm(make, d_in, wide, 1, activation=nnx.silu)
            if stage.expansion > 1
            else None
        )
        self.depthwise = ConvNorm(
            make, wide, wide, stage.size, stride, groups=wide, activation=nnx.silu
        )
        self.gate = _Gate(make, wide, max(1, d_in // GATE_SHARE))
        self.project = ConvNorm(make, wide, stage.features, 1, activation=None)
        self.has_skip = stride == 1 and d_in == stage.features
        # One decision for each example.
        self.drop_path = make_dropout(drop_path, make.rngs, broadcast_dims=(1, 2, 3))

    def __call__(self, x):
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.gate(self.depthwise(y)))
        return x + self.drop_path(y) if self.has_skip else y


class _Gate(nnx.Module):
    """Scales each channel by a function of all channels' means over pixels."""

    def __init__(self, make, features: int, hidden: int):
        self.squeeze = make.dense(features, hidden, kernel_init=he_normal(1))
        self.excite = make.dense(hidden, features, kernel_init=he_normal(1))

    def __call__(self, x):
        means = x.mean((1, 2), keepdims=True)
        return x * nnx.sigmoid(self.excite(nnx.silu(self.squeeze(means))))
