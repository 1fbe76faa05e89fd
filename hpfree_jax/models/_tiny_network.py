"""The network of NAS-Bench-201, built from the string of its cell."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hpfree_jax.architecture import parse_nas_bench_201
from hpfree_jax.models._checks import check_image, check_sizes
from hpfree_jax.models._image_layers import ImageLayers
from hpfree_jax.models._live_edges import Edge, live_edges

SKIP, POOL = "1", "4"
KERNEL_SIZES = {"2": 1, "3": 3}
DIVISOR = 4  # of height and width: the image is halved twice


class TinyNetwork(nnx.Module):
    r"""The network of NAS-Bench-201: three stages of equal cells.

    Stem (convolution 3x3, batch normalisation); stages of :math:`C`, :math:`2C` and
    :math:`4C` channels, with a residual block of stride 2 before the second and third;
    batch normalisation, ReLU, mean over pixels, classifier. An edge of a cell is
    ReLU, convolution (1x1 or 3x3) and batch normalisation, or a skip, or an average
    over 3x3 pixels (those outside of the image left out), and nodes sum their edges.
    A residual block adds two such convolutions 3x3 to an average over 2x2 pixels
    followed by a convolution 1x1. Edges on no path through the cell are not built.

    Args:
      in_channels: channels of an image.
      cell: a string for :func:`hpfree_jax.parse_nas_bench_201`.
      channels: :math:`C`.
      num_classes: outputs.
      cells: cells in a stage.
      bias: whether the classifier adds a bias; convolutions have none.
      affine: whether batch normalisation has a scale and a shift.
      kernel_init: initialiser of the weights; biases start at zero.
      dtype: of the computation; None promotes input and parameters.
      param_dtype: of the parameters.
      rngs: source of the initial weights.

    Raises:
      ValueError: if a size is not positive, or the string is no cell with a path; in
        the call, if height or width is no multiple of 4.

    References:
      Dong and Yang, `NAS-Bench-201 <https://arxiv.org/abs/2001.00326>`_, ICLR 2020.

    >>> def scores(images):
    ...     model = TinyNetwork(3, "3_34_131", 4, 10, cells=1, rngs=nnx.Rngs(0))
    ...     return model(images)
    >>> nnx.eval_shape(scores, jnp.zeros((2, 8, 8, 3))).shape  # nothing is computed
    (2, 10)
    """

    def __init__(
        self,
        in_channels: int,
        cell: str,
        channels: int,
        num_classes: int,
        cells: int = 5,
        *,
        bias: bool = True,
        affine: bool = True,
        kernel_init: Initializer = default_kernel_init,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            in_channels=in_channels,
            channels=channels,
            num_classes=num_classes,
            cells=cells,
        )
        wiring = live_edges(parse_nas_bench_201(cell).digits)
        make = ImageLayers(rngs, affine, kernel_init, dtype, param_dtype)
        self.stem_conv = make.conv(in_channels, channels, 3)
        self.stem_norm = make.norm(channels)
        blocks: list[nnx.Module] = []
        for stage, width in enumerate((channels, 2 * channels, 4 * channels)):
            if stage:
                blocks.append(_Reduction(width // 2, width, make))
            blocks += [_Cell(wiring, width, make) for _ in range(cells)]
        self.blocks = nnx.List(blocks)
        self.last_norm = make.norm(4 * channels)
        self.classifier = make.dense(4 * channels, num_classes, bias=bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``(batch, height, width, channels)`` to class scores."""
        check_image(x.shape[1:], multiple_of=DIVISOR)
        x = self.stem_norm(self.stem_conv(x))
        for block in self.blocks:
            x = block(x)
        return self.classifier(nnx.relu(self.last_norm(x)).mean((1, 2)))


class _ReluConvNorm(nnx.Module):
    """ReLU, convolution, batch normalisation."""

    def __init__(self, make, d_in, d_out, size, stride=1):
        self.conv = make.conv(d_in, d_out, size, stride)
        self.norm = make.norm(d_out)

    def __call__(self, x):
        return self.norm(self.conv(nnx.relu(x)))


class _Cell(nnx.Module):
    """A cell: the sums at its nodes."""

    def __init__(self, wiring: tuple[Edge, ...], width: int, make: ImageLayers):
        self.wiring = wiring
        self.edges = nnx.Dict(
            {
                edge.name: _ReluConvNorm(make, width, width, KERNEL_SIZES[edge.kind])
                for edge in wiring
                if edge.kind in KERNEL_SIZES
            }
        )

    def __call__(self, x):
        nodes = {0: x}
        for edge in self.wiring:
            value = nodes[edge.source]
            if edge.kind == POOL:
                value = nnx.avg_pool(
                    value, (3, 3), padding="SAME", count_include_pad=False
                )
            elif edge.kind != SKIP:
                value = self.edges[edge.name](value)
            target = edge.target
            nodes[target] = nodes[target] + value if target in nodes else value
        return nodes[self.wiring[-1].target]


class _Reduction(nnx.Module):
    """A residual block that halves the image."""

    def __init__(self, d_in: int, d_out: int, make: ImageLayers):
        self.conv_a = _ReluConvNorm(make, d_in, d_out, 3, stride=2)
        self.conv_b = _ReluConvNorm(make, d_out, d_out, 3)
        self.shortcut = make.conv(d_in, d_out, 1)

    def __call__(self, x):
        pooled = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return self.shortcut(pooled) + self.conv_b(self.conv_a(x))
