"""Wide residual networks."""

import functools

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._checks import check_rate, check_sizes, check_stages
from hpfree_jax.models._image_layers import ImageLayers
from hpfree_jax.models._preact_resnet import PreActBlock, PreActNetwork

STEM = 16


class WideResNet(PreActNetwork):
    r"""A wide residual network, WRN-:math:`d`-:math:`k`.

    A stem of 16 channels, three stages of :math:`16k, 32k` and :math:`64k` channels,
    each of :math:`(d - 4) / 6` pre-activated blocks of two convolutions 3x3; batch
    normalisation and ReLU; mean over pixels; classifier. The second and third stages
    begin with stride 2.

    Args:
      depth: :math:`d`, layers, a multiple of 6 plus 4.
      width: :math:`k`, how many times wider than a residual network of that depth.
      num_classes: outputs.
      in_channels: channels of an image.
      dropout: dropout rate before the second convolution of a block, in [0, 1); the
        paper has 0 or 0.3.
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
      ValueError: if there is no such depth, or if a number is out of range.

    References:
      Zagoruyko and Komodakis, `Wide Residual Networks
      <https://arxiv.org/abs/1605.07146>`_, 2016.

    >>> def scores(images):
    ...     model = WideResNet(10, 1, num_classes=10, rngs=nnx.Rngs(0))
    ...     return model(images)
    >>> nnx.eval_shape(scores, jnp.zeros((2, 8, 8, 3))).shape  # nothing is computed
    (2, 10)
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int,
        in_channels: int = 3,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        affine: bool = True,
        remat: bool = False,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_stages(depth)
        check_sizes(width=width, num_classes=num_classes, in_channels=in_channels)
        check_rate(dropout=dropout)
        super().__init__(
            ImageLayers(rngs, affine, kernel_init, dtype, param_dtype),
            in_channels,
            STEM,
            [STEM * width * 2**stage for stage in range(3)],
            [(depth - 4) // 6] * 3,
            functools.partial(PreActBlock, dropout=dropout),
            num_classes,
            bias=bias,
            final_norm=True,
            remat=remat,
        )
