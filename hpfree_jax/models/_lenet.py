"""LeNet-5, the convolutional network for 32 x 32 images of characters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._checks import check_sizes

SIZE = 32


class LeNet5(nnx.Module):
    r"""LeNet-5: two convolutions with average pooling, then three dense layers.

    The nonlinearity is :math:`1.7159 \tanh(2x/3)`. Images smaller than 32 x 32 are
    padded by zeros on all sides (an odd row or column goes to the bottom or right).
    For ten classes and one channel it has 61,706 parameters.

    Args:
      num_classes: outputs.
      in_channels: channels of an image.
      bias: whether the layers add a bias.
      kernel_init: initialiser of the weights; biases start at zero.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if a size is not positive; in the call, if an image is larger than
        32 x 32 or has another number of channels.

    References:
      LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
      Differs: every map of the second convolution sees all six maps before it
      (the paper leaves out some connections), pooling has no trained coefficient, and
      the last layer is linear (the paper has radial basis functions).

    >>> def scores(images):
    ...     model = LeNet5(10, rngs=nnx.Rngs(0))
    ...     return model(images)
    >>> nnx.eval_shape(scores, jnp.zeros((2, 28, 28, 1))).shape  # nothing is computed
    (2, 10)
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        *,
        bias: bool = True,
        kernel_init: Initializer = default_kernel_init,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(num_classes=num_classes, in_channels=in_channels)
        settings: dict[str, Any] = {
            "use_bias": bias,
            "kernel_init": kernel_init,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        conv = functools.partial(
            nnx.Conv, kernel_size=(5, 5), padding="VALID", **settings
        )
        self.in_channels = in_channels
        self.conv1 = conv(in_channels, 6)  # 32 -> 28, pooled to 14
        self.conv2 = conv(6, 16)  # 14 -> 10, pooled to 5
        self.dense1 = nnx.Linear(5 * 5 * 16, 120, **settings)
        self.dense2 = nnx.Linear(120, 84, **settings)
        self.dense3 = nnx.Linear(84, num_classes, **settings)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        x = _pad(x, self.in_channels)
        for conv in (self.conv1, self.conv2):
            x = nnx.avg_pool(_scaled_tanh(conv(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for dense in (self.dense1, self.dense2):
            x = _scaled_tanh(dense(x))
        return self.dense3(x)


def _scaled_tanh(x: jax.Array) -> jax.Array:
    return 1.7159 * jnp.tanh(2 / 3 * x)


def _pad(x: jax.Array, in_channels: int) -> jax.Array:
    _, height, width, channels = x.shape
    if max(height, width) > SIZE or channels != in_channels:
        raise ValueError(
            f"LeNet5 takes images of at most {SIZE} x {SIZE} pixels and {in_channels} "
            f"channels, got {height} x {width} x {channels}."
        )
    margins = [((SIZE - size) // 2, (SIZE - size + 1) // 2) for size in (height, width)]
    return jnp.pad(x, ((0, 0), *margins, (0, 0)))
