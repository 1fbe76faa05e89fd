"""Networks whose layers are the edges of a DAG, dense or convolutional."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.architecture import parse_dag
from hpfree_jax.models._checks import check_sizes
from hpfree_jax.models._live_edges import Edge, live_edges

SKIP = "1"


class DagMLP(nnx.Module):
    r"""A multilayer perceptron wired as a DAG: stem, edges, readout.

    With node 0 the output of the stem, edges of type 1 are identities and edges of
    type 2 layers of their own weights:

    .. math:: x_t = \sum_{s \to t} \phi(W_{st} x_s), \quad \phi(z) = \max(0, z)

    as in the published code, the stem ending in :math:`\phi` too. With
    ``pre_activation`` the nodes are those of the paper's equation 1,
    :math:`z_t = \sum W_{st} \phi(z_s)`, and the readout applies :math:`\phi` first; a
    skip then adds :math:`z_s` itself. Edges on no path from node 0 to the last node
    change nothing that matters, and are not built.

    Args:
      in_features: numbers in one example; axes after the batch are flattened.
      dag: a string for :func:`hpfree_jax.parse_dag`.
      width: units of every node.
      num_classes: outputs.
      pre_activation: sums linear maps as in equation 1, not activations.
      bias: whether all layers, the readout included, add a bias.
      kernel_init: initialiser of the weights; biases start at zero.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if a size is not positive, or the string is no DAG with a path.

    References:
      Chen et al., `Principled Architecture-aware Scaling of Hyperparameters
      <https://arxiv.org/abs/2402.17440>`_, ICLR 2024.

    >>> model = DagMLP(64, "2_12", width=16, num_classes=10, rngs=nnx.Rngs(0))
    >>> sorted(model.edges), model(jnp.zeros((2, 8, 8, 1))).shape
    (['0_to_1', '1_to_2'], (2, 10))
    """

    def __init__(
        self,
        in_features: int,
        dag: str,
        width: int,
        num_classes: int,
        *,
        pre_activation: bool = False,
        bias: bool = True,
        kernel_init: Initializer = default_kernel_init,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(in_features=in_features, width=width, num_classes=num_classes)
        settings = _settings(bias, kernel_init, dtype, param_dtype, rngs)
        linear = functools.partial(nnx.Linear, **settings)
        self.pre_activation = pre_activation
        self.wiring = _wiring(dag)
        self.stem = linear(in_features, width)
        self.edges = _layers(self.wiring, lambda: linear(width, width))
        self.readout = linear(width, num_classes)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a batch ``(batch, ...)`` to ``(batch, num_classes)``."""
        x = self.stem(x.reshape(x.shape[0], -1))
        x = _run(self.wiring, self.edges, x, self.pre_activation)
        return self.readout(x)


class DagCNN(nnx.Module):
    r"""A convolutional network wired as a DAG: stem, edges, mean over pixels, readout.

    As :class:`DagMLP`, with convolutions of one kernel size, stride 1 and zero padding
    for the stem and the edges; all nodes have the image's height and width.

    Args:
      in_channels: channels of an image.
      dag: a string for :func:`hpfree_jax.parse_dag`.
      channels: of every node.
      num_classes: outputs.
      kernel_size: height and width of all kernels.
      pre_activation: sums linear maps as in equation 1, not activations.
      bias: whether all layers, the readout included, add a bias.
      kernel_init: initialiser of the weights; biases start at zero.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if a size is not positive, or the string is no DAG with a path.

    References:
      As for :class:`DagMLP`.

    >>> def scores(images):
    ...     model = DagCNN(3, "2_12", channels=4, num_classes=10, rngs=nnx.Rngs(0))
    ...     return model(images)
    >>> nnx.eval_shape(scores, jnp.zeros((2, 8, 8, 3))).shape  # nothing is computed
    (2, 10)
    """

    def __init__(
        self,
        in_channels: int,
        dag: str,
        channels: int,
        num_classes: int,
        kernel_size: int = 3,
        *,
        pre_activation: bool = False,
        bias: bool = True,
        kernel_init: Initializer = default_kernel_init,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            in_channels=in_channels,
            channels=channels,
            num_classes=num_classes,
            kernel_size=kernel_size,
        )
        settings = _settings(bias, kernel_init, dtype, param_dtype, rngs)
        size = (kernel_size, kernel_size)
        conv = functools.partial(nnx.Conv, kernel_size=size, **settings)
        self.pre_activation = pre_activation
        self.wiring = _wiring(dag)
        self.stem = conv(in_channels, channels)
        self.edges = _layers(self.wiring, lambda: conv(channels, channels))
        self.readout = nnx.Linear(channels, num_classes, **settings)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        x = _run(self.wiring, self.edges, self.stem(x), self.pre_activation)
        return self.readout(x.mean((1, 2)))


def _settings(bias, kernel_init, dtype, param_dtype, rngs) -> dict[str, Any]:
    return {
        "use_bias": bias,
        "kernel_init": kernel_init,
        "dtype": dtype,
        "param_dtype": param_dtype,
        "rngs": rngs,
    }


def _wiring(dag: str) -> tuple[Edge, ...]:
    parse_dag(dag)  # raises where the string is wrong
    return live_edges(dag)


def _layers(wiring: tuple[Edge, ...], make: Callable[[], nnx.Module]) -> nnx.Dict:
    return nnx.Dict({edge.name: make() for edge in wiring if edge.kind != SKIP})


def _run(wiring, layers, x: jax.Array, pre_activation: bool) -> jax.Array:
    """From the stem's output, before its activation, to what the readout takes."""
    nodes = {0: x if pre_activation else nnx.relu(x)}
    for edge in wiring:
        value = nodes[edge.source]
        if edge.kind != SKIP:
            layer = layers[edge.name]
            value = layer(nnx.relu(value)) if pre_activation else nnx.relu(layer(value))
        target = edge.target
        nodes[target] = nodes[target] + value if target in nodes else value
    last = nodes[wiring[-1].target]
    return nnx.relu(last) if pre_activation else last
