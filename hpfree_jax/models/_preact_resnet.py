"""Residual networks whose blocks begin with normalisation and activation."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._blocks import run_blocks
from hpfree_jax.models._checks import check_depth, check_sizes
from hpfree_jax.models._image_layers import ImageLayers, NormConv
from hpfree_jax.models._resnet import BOTTLENECK_DEPTH, EXPANSION, STAGES


class PreActNetwork(nnx.Module):
    """Stem 3x3, stages of pre-activated blocks, mean over pixels, classifier.

    Args:
      make: makes the layers.
      in_channels: channels of an image.
      stem: channels of the stem.
      widths: channels of the convolutions 3x3, one number for each stage.
      blocks: blocks in each stage.
      block: ``block(make, d_in, width, stride=...)`` with the attribute ``features``.
      num_classes: outputs.
      bias: whether the classifier adds a bias.
      final_norm: whether normalisation and activation follow the last block.
      remat: rematerialises blocks in the backward pass.
    """

    def __init__(
        self,
        make: ImageLayers,
        in_channels: int,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        block: Callable[..., "PreActBlock"],
        num_classes: int,
        *,
        bias: bool,
        final_norm: bool,
        remat: bool,
    ):
        self.remat = remat
        self.stem = make.conv(in_channels, stem, 3)
        made, features = [], stem
        for stage, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            for place in range(number):
                stride = 2 if stage and not place else 1
                made.append(block(make, features, width, stride=stride))
                features = made[-1].features
        self.blocks = nnx.List(made)
        self.final_norm = make.norm(features) if final_norm else None
        self.classifier = make.dense(features, num_classes, bias=bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        x = run_blocks(self.blocks, self.stem(x), remat=self.remat)
        if self.final_norm is not None:
            x = nnx.relu(self.final_norm(x))
        return self.classifier(x.mean((1, 2)))


class PreActBlock(nnx.Module):
    """A skip plus a branch, both behind one normalisation where the shape changes.

    The branch is two convolutions 3x3, with dropout before the second, or a bottleneck
    of 1x1, 3x3 and 1x1.
    """

    def __init__(
        self,
        make: ImageLayers,
        d_in: int,
        width: int,
        *,
        stride: int,
        bottleneck: bool = False,
        dropout: float = 0.0,
    ):
        self.features = d_out = EXPANSION * width if bottleneck else width
        self.norm = make.norm(d_in)
        if bottleneck:
            self.conv = make.conv(d_in, width, 1)
            layers = [
                NormConv(make, width, width, 3, stride),
                NormConv(make, width, d_out, 1),
            ]
        else:
            self.conv = make.conv(d_in, width, 3, stride)
            layers = [NormConv(make, width, d_out, 3, dropout=dropout)]
        self.layers = nnx.List(layers)
        changes = stride != 1 or d_in != d_out
        self.shortcut = make.conv(d_in, d_out, 1, stride) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to images."""
        active = nnx.relu(self.norm(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        x = self.conv(active)
        for layer in self.layers:
            x = layer(x)
        return skip + x


class PreActResNet(PreActNetwork):
    r"""A residual network for small images with pre-activated blocks.

    A block is :math:`x + F(x)`, and each convolution of :math:`F` comes after batch
    normalisation and ReLU: two of size 3x3, or, from 50 layers on, a bottleneck of 1x1,
    3x3 and 1x1, the last four times as wide. Four stages of :math:`C, 2C, 4C` and
    :math:`8C` channels; all but the first begin with stride 2. Where a block changes
    the shape, a convolution 1x1 of the first activation takes the place of the skip.

    Args:
      depth: layers: 18, 34, 50, 101 or 152.
      num_classes: outputs.
      in_channels: channels of an image.
      channels: :math:`C`.
      final_norm: whether batch normalisation and ReLU follow the last block, as in the
        paper; the code of AGD's experiments has neither.
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
      He et al., `Identity Mappings in Deep Residual Networks
      <https://arxiv.org/abs/1603.05027>`_, 2016. Differs: widths and depths are those
      of the ImageNet networks, as in the code of AGD's experiments.

    >>> def scores(images):
    ...     model = PreActResNet(18, 10, channels=4, rngs=nnx.Rngs(0))
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
        final_norm: bool = False,
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
        super().__init__(
            ImageLayers(rngs, affine, kernel_init, dtype, param_dtype),
            in_channels,
            channels,
            [channels * 2**stage for stage in range(4)],
            STAGES[depth],
            functools.partial(PreActBlock, bottleneck=depth >= BOTTLENECK_DEPTH),
            num_classes,
            bias=bias,
            final_norm=final_norm,
            remat=remat,
        )
