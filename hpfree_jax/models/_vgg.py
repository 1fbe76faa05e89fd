"""The VGG networks, in the form that is common for CIFAR."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._checks import check_depth, check_sizes

STAGES = {  # convolutions in each stage, by the number of layers in the paper
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nnx.Module):
    r"""VGG-11, 13, 16 or 19: five stages of convolutions 3x3, and one readout.

    With :math:`C` = ``channels``, the stages have :math:`C, 2C, 4C, 8C` and :math:`8C`
    channels. A layer is convolution, batch normalisation, ReLU; a stage ends in a
    maximum over 2x2 pixels. Images of 32 x 32 pixels arrive at one pixel, which the
    readout maps to class scores; where sizes are odd the last windows are smaller, and
    what is left of larger images is averaged. For ten classes and three channels
    VGG-11 has 9,231,114 parameters.

    Args:
      depth: 11, 13, 16 or 19, the layers with weights of the paper's network.
      num_classes: outputs.
      in_channels: channels of an image.
      channels: :math:`C`; the paper has 64.
      bias: whether convolutions and readout add a bias.
      affine: whether batch normalisation has a scale and a shift.
      kernel_init: initialiser of the weights; biases start at zero.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if the depth is another, or a size is not positive.

    References:
      Simonyan and Zisserman, `Very Deep Convolutional Networks for Large-Scale Image
      Recognition <https://arxiv.org/abs/1409.1556>`_, ICLR 2015, configurations A, B,
      D and E. Differs, as usual for CIFAR: batch normalisation, and one dense layer
      instead of three with dropout (so two layers fewer than the name says).

    >>> model = nnx.eval_shape(lambda: VGG(11, 10, rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    9231114
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int = 3,
        channels: int = 64,
        *,
        bias: bool = True,
        affine: bool = True,
        kernel_init: Initializer = default_kernel_init,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_depth(depth, STAGES)
        check_sizes(num_classes=num_classes, in_channels=in_channels, channels=channels)
        common: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        conv = functools.partial(
            nnx.Conv,
            kernel_size=(3, 3),
            use_bias=bias,
            kernel_init=kernel_init,
            **common,
        )
        norm = functools.partial(
            nnx.BatchNorm, use_bias=affine, use_scale=affine, momentum=0.9, **common
        )
        stages = []
        width = in_channels
        for factor, num_layers in zip((1, 2, 4, 8, 8), STAGES[depth], strict=True):
            layers = []
            for _ in range(num_layers):
                layers.append(_ConvNormRelu(width, factor * channels, conv, norm))
                width = factor * channels
            stages.append(nnx.List(layers))
        self.stages = nnx.List(stages)
        self.classifier = nnx.Linear(
            width, num_classes, use_bias=bias, kernel_init=kernel_init, **common
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        for stage in self.stages:
            for layer in stage:
                x = layer(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        return self.classifier(x.mean((1, 2)))


class _ConvNormRelu(nnx.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, d_in, d_out, conv, norm):
        self.conv = conv(d_in, d_out)
        self.norm = norm(d_out)

    def __call__(self, x):
        return nnx.relu(self.norm(self.conv(x)))
