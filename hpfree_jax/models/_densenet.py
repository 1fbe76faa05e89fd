"""Densely connected networks."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._blocks import run_blocks
from hpfree_jax.models._checks import check_image, check_sizes, check_stages
from hpfree_jax.models._image_layers import ImageLayers, NormConv

SMALLEST = 4  # pixels: the image is halved twice


class DenseNetBC(nnx.Module):
    r"""A densely connected network with bottlenecks and compression, DenseNet-BC.

    A stem 3x3 of :math:`2k` channels; three stages of :math:`(d - 4) / 6` blocks; batch
    normalisation and ReLU; mean over pixels; classifier. A block appends :math:`k`
    channels to its input: a convolution 1x1 to :math:`4k` and one of 3x3, each after
    batch normalisation and ReLU. Between stages a convolution 1x1, after the same two,
    halves the channels, and averages over 2x2 pixels the image.

    Args:
      depth: :math:`d`, layers, a multiple of 6 plus 4.
      growth: :math:`k`, the channels that a block appends.
      num_classes: outputs.
      in_channels: channels of an image.
      bias: whether the classifier adds a bias; convolutions have none.
      affine: whether batch normalisation has a scale and a shift.
      remat: rematerialises blocks in the backward pass, to save memory.
      kernel_init: initialiser of all kernels. None draws convolutions from He's normal
        distribution by fan-out, and the classifier uniformly up to
        :math:`1/\sqrt{\text{fan-in}}`.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if there is no such depth, or if a size is not positive; in the call,
        if an image has less than 4 x 4 pixels.

    References:
      Huang et al., `Densely Connected Convolutional Networks
      <https://arxiv.org/abs/1608.06993>`_, 2016.

    >>> def scores(images):
    ...     model = DenseNetBC(10, 2, num_classes=10, rngs=nnx.Rngs(0))
    ...     return model(images)
    >>> nnx.eval_shape(scores, jnp.zeros((2, 8, 8, 3))).shape  # nothing is computed
    (2, 10)
    """

    def __init__(
        self,
        depth: int,
        growth: int,
        num_classes: int,
        in_channels: int = 3,
        *,
        bias: bool = True,
        affine: bool = True,
        remat: bool = False,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_stages(depth)
        check_sizes(growth=growth, num_classes=num_classes, in_channels=in_channels)
        make = ImageLayers(rngs, affine, kernel_init, dtype, param_dtype)
        self.remat = remat
        features = 2 * growth
        self.stem = make.conv(in_channels, features, 3)
        blocks: list[nnx.Module] = []
        for stage in range(3):
            if stage:
                blocks.append(_Transition(make, features, features // 2))
                features //= 2
            for _ in range((depth - 4) // 6):
                blocks.append(_DenseBlock(make, features, growth))
                features += growth
        self.blocks = nnx.List(blocks)
        self.final_norm = make.norm(features)
        self.classifier = make.dense(features, num_classes, bias=bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        check_image(x.shape[1:], SMALLEST)
        x = run_blocks(self.blocks, self.stem(x), remat=self.remat)
        x = nnx.relu(self.final_norm(x))
        return self.classifier(x.mean((1, 2)))


class _DenseBlock(nnx.Module):
    """The input and what two convolutions make of it, side by side."""

    def __init__(self, make, d_in, growth):
        self.bottleneck = NormConv(make, d_in, 4 * growth, 1)
        self.conv = NormConv(make, 4 * growth, growth, 3)

    def __call__(self, x):
        return jnp.concatenate([x, self.conv(self.bottleneck(x))], axis=-1)


class _Transition(nnx.Module):
    """Fewer channels, and half of the height and width."""

    def __init__(self, make, d_in, d_out):
        self.conv = NormConv(make, d_in, d_out, 1)

    def __call__(self, x):
        return nnx.avg_pool(self.conv(x), (2, 2), (2, 2))
