"""Layers that image models share: convolution, batch normalisation, classifier."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, variance_scaling
from jax.typing import DTypeLike

from hpfree_jax.models._blocks import make_dropout

# As PyTorch draws a dense layer: uniform up to 1 / sqrt(fan_in).
UNIFORM_FAN_IN = variance_scaling(1 / 3, "fan_in", "uniform")


def he_normal(groups: int = 1) -> Initializer:
    """He's normal distribution by fan-out, that of one group of a convolution."""
    # JAX counts the outputs of all groups.
    return variance_scaling(2.0 * groups, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class ImageLayers:
    """Makes the layers of one model, with the settings that they share.

    Convolutions have no bias unless asked for, and pad by half of their size on every
    side, as PyTorch's do, which differs from ``"SAME"`` at stride 2.

    Attributes:
      rngs: source of the initial weights.
      affine: whether batch normalisation has a scale and a shift.
      kernel_init: initialiser of all kernels. None draws those of convolutions from
        He's normal distribution by fan-out, and dense ones as PyTorch does.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      momentum: of the running statistics: the share of the old value.
      epsilon: added to variances.
    """

    rngs: nnx.Rngs
    affine: bool = True
    kernel_init: Initializer | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5

    def conv(
        self, d_in: int, d_out: int, size: int, stride: int = 1, *, groups: int = 1
    ) -> nnx.Conv:
        """A convolution; in groups, each has ``d_out / groups`` outputs."""
        return nnx.Conv(
            d_in,
            d_out,
            (size, size),
            strides=(stride, stride),
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=self.kernel_init or he_normal(groups),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def norm(self, features: int) -> nnx.BatchNorm:
        """Batch normalisation."""
        return nnx.BatchNorm(
            features,
            use_scale=self.affine,
            use_bias=self.affine,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def dense(
        self,
        d_in: int,
        d_out: int,
        *,
        bias: bool = True,
        kernel_init: Initializer = UNIFORM_FAN_IN,
    ) -> nnx.Linear:
        """A dense layer, such as the classifier; its bias starts at zero."""
        return nnx.Linear(
            d_in,
            d_out,
            use_bias=bias,
            kernel_init=self.kernel_init or kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )


class ConvNorm(nnx.Module):
    """Convolution, batch normalisation, and an activation where there is one."""

    def __init__(
        self,
        make: ImageLayers,
        d_in: int,
        d_out: int,
        size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: Callable[[jax.Array], jax.Array] | None = nnx.relu,
    ):
        self.conv = make.conv(d_in, d_out, size, stride, groups=groups)
        self.norm = make.norm(d_out)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to images."""
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


class NormConv(nnx.Module):
    """Batch normalisation, ReLU, dropout where there is any, convolution."""

    def __init__(
        self,
        make: ImageLayers,
        d_in: int,
        d_out: int,
        size: int,
        stride: int = 1,
        *,
        dropout: float = 0.0,
    ):
        self.norm = make.norm(d_in)
        self.dropout = make_dropout(dropout, make.rngs)
        self.conv = make.conv(d_in, d_out, size, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to images."""
        return self.conv(self.dropout(nnx.relu(self.norm(x))))
