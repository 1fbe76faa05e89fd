"""The fully connected network that AGD is derived for."""

import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.models._checks import check_sizes


class FCN(nnx.Module):
    r"""A fully connected network of :math:`L` equally wide layers.

    .. math:: f(x) = W_L \phi(W_{L-1} \cdots \phi(W_1 x)), \phi(z) = \sqrt 2 \max(0, z)

    The factor of the nonlinearity keeps the root mean square of its input. Axes of the
    input after the first, the batch, are flattened.

    Args:
      in_features: numbers in one example.
      depth: :math:`L`, the number of weight matrices, at least 1.
      width: units in each of the :math:`L - 1` hidden layers.
      num_classes: outputs.
      bias: whether the layers add a bias; the theory of AGD has none.
      kernel_init: initialiser of the weights; biases start at zero.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if a size is not positive.

    >>> model = FCN(64, depth=3, width=16, num_classes=10, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((2, 8, 8, 1))).shape
    (2, 10)
    """

    def __init__(
        self,
        in_features: int,
        depth: int,
        width: int,
        num_classes: int,
        *,
        bias: bool = False,
        kernel_init: Initializer = default_kernel_init,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            in_features=in_features, depth=depth, width=width, num_classes=num_classes
        )
        features = [in_features, *[width] * (depth - 1), num_classes]
        self.layers = nnx.List(
            nnx.Linear(
                d_in,
                d_out,
                use_bias=bias,
                kernel_init=kernel_init,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for d_in, d_out in itertools.pairwise(features)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a batch ``(batch, ...)`` to ``(batch, num_classes)``."""
        x = x.reshape(x.shape[0], -1)
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else math.sqrt(2) * nnx.relu(x))
        return x
