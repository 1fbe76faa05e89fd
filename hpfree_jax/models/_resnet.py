"""Residual networks, for large images and for small ones."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._blocks import run_blocks
from hpfree_jax.models._checks import check_depth, check_sizes
from hpfree_jax.models._image_layers import ConvNorm, ImageLayers

# Blocks in each stage; from 50 layers on they are bottlenecks.
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_DEPTH, EXPANSION = 50, 4
PADDING: Any = ((1, 1), (1, 1))  # Any: Flax's annotation has only words


class ResNet(nnx.Module):
    r"""A residual network: stem, four stages of blocks, mean over pixels, classifier.

    A block is :math:`\phi(x + F(x))`, :math:`\phi(z) = \max(0, z)`, where :math:`F` is
    two convolutions 3x3, or, from 50 layers on, a bottleneck of 1x1, 3x3 and 1x1, the
    last four times as wide. Batch normalisation follows every convolution. Stages
    have :math:`C, 2C, 4C` and :math:`8C` channels, and all but the first begin with
    stride 2, in the convolution 3x3 (v1.5). Where a block changes the shape, a
    convolution 1x1 takes the place of the skip. The stem halves the image by a
    convolution 7x7 and again by a maximum; that for small images is a convolution 3x3.

    Args:
      depth: layers: 18, 34, 50, 101 or 152.
      num_classes: outputs.
      in_channels: channels of an image.
      channels: :math:`C`.
      small_images: whether the stem keeps the image's size, as for CIFAR.
      bias: whether the classifier adds a bias; convolutions have none.
      affine: whether batch normalisation has a scale and a shift.
      remat: computes the inside of blocks again in the backward pass, to save memory.
      kernel_init: initialiser of all kernels. None draws convolutions from He's normal
        distribution by fan-out, and the classifier uniformly up to
        :math:`1/\sqrt{\text{fan-in}}`.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if there is no such depth, or if a size is not positive.

    References:
      He et al., `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, 2015. Differs: the stride of a bottleneck is
      in its convolution 3x3; biases start at zero. The network for small images is
      that of the hypergradient and AGD experiments, not the paper's own for CIFAR.

    >>> def scores(images):
    ...     model = ResNet(18, 10, channels=4, small_images=True, rngs=nnx.Rngs(0))
    ...     return model(images)
    >>> nnx.eval_shape(scores, jnp.zeros((2, 8, 8, 3))).shape  # nothing is computed
    (2, 10)
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int = 3,
        *,
        channels: int = 64,
        small_images: bool = False,
        bias: bool = True,
        affine: bool = True,
        remat: bool = False,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_depth(depth, STAGES)
        check_sizes(num_classes=num_classes, in_channels=in_channels, channels=channels)
        make = ImageLayers(rngs, affine, kernel_init, dtype, param_dtype)
        self.small_images, self.remat = small_images, remat
        size, stride = (3, 1) if small_images else (7, 2)
        self.stem = ConvNorm(make, in_channels, channels, size, stride)
        blocks, features = [], channels
        for stage, number in enumerate(STAGES[depth]):
            for place in range(number):
                block = _Block(
                    make,
                    features,
                    channels * 2**stage,
                    stride=2 if stage and not place else 1,
                    bottleneck=depth >= BOTTLENECK_DEPTH,
                )
                blocks.append(block)
                features = block.features
        self.blocks = nnx.List(blocks)
        self.classifier = make.dense(features, num_classes, bias=bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        x = self.stem(x)
        if not self.small_images:
            x = nnx.max_pool(x, (3, 3), (2, 2), PADDING)
        x = run_blocks(self.blocks, x, remat=self.remat)
        return self.classifier(x.mean((1, 2)))


class _Block(nnx.Module):
    """The activation of a skip plus a branch of convolutions."""

    def __init__(self, make, d_in: int, width: int, stride: int, bottleneck: bool):
        self.features = d_out = EXPANSION * width if bottleneck else width
        if bottleneck:
            layers = [
                ConvNorm(make, d_in, width, 1),
                ConvNorm(make, width, width, 3, stride),
                ConvNorm(make, width, d_out, 1, activation=None),
            ]
        else:
            layers = [
                ConvNorm(make, d_in, width, 3, stride),
                ConvNorm(make, width, d_out, 3, activation=None),
            ]
        self.layers = nnx.List(layers)
        self.shortcut = (
            ConvNorm(make, d_in, d_out, 1, stride, activation=None)
            if stride != 1 or d_in != d_out
            else None
        )

    def __call__(self, x):
        skip = x if self.shortcut is None else self.shortcut(x)
        for layer in self.layers:
            x = layer(x)
        return nnx.relu(skip + x)
