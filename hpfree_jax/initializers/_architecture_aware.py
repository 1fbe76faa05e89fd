"""He initialisation that knows how many branches a layer's output is summed with."""

import math
from collections.abc import Sequence
from typing import get_args

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from hpfree_jax._base import check_choice, check_in_interval
from hpfree_jax._weight_scale import Fan, normal, standard_deviation
from hpfree_jax.initializers._scaled_orthogonal import axes_of


def architecture_aware(
    in_degree: int = 1,
    *,
    fan: Fan = "fan_in",
    readout: bool = False,
    in_axis: int | Sequence[int] = -2,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
) -> Initializer:
    r"""Makes an initialiser whose variance is divided by the in-degree of a sum.

    Weights are normal with mean 0 and standard deviation

    .. math::
        \sigma = \sqrt{\frac{2}{n\, d}}, \qquad
        \sigma_\text{readout} = \frac{2}{n \sqrt{d}},

    :math:`n` the fan and :math:`d` the in-degree of the *target*: the number of
    branches that are summed where the layer's output goes. The readout gets the square
    of the usual standard deviation. :func:`hpfree_jax.initialize` finds :math:`d` for
    every layer of a model, and says what the rule keeps level and what not.

    Args:
      in_degree: :math:`d`, at least 1.
      fan: ``"fan_in"``, or ``"fan_out"`` as in the authors' code for MLPs and CNNs.
      readout: whether the layer produces the model's output.
      in_axis: axis or axes of the input.
      out_axis: axis or axes of the output.
      batch_axis: axis or axes of independent matrices (stacked layers). All axes left
        are kernel positions, which count in either fan.

    Returns:
      ``init(key, shape, dtype=float32)``, as in :mod:`jax.nn.initializers`.

    Raises:
      ValueError: if an argument is out of range, or a shape lacks one of the axes.

    References:
      Chen et al., `Principled Architecture-aware Scaling of Hyperparameters
      <https://arxiv.org/abs/2402.17440>`_, ICLR 2024, equation A.12. Differs: their
      equation 4 and their code divide by the in-degree of the *source*, which does not
      keep the variance.

    >>> kernel = architecture_aware(in_degree=2)(jax.random.key(0), (64, 1000))
    >>> print(f"{kernel.std():.3f}, expected {(2 / (64 * 2)) ** 0.5:.3f}")
    0.125, expected 0.125
    """
    check_in_interval("in_degree", in_degree, 1, float("inf"), include_low=True)
    check_choice("fan", fan, get_args(Fan))

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        ndim = len(shape)
        in_axes = axes_of("in_axis", in_axis, ndim)
        out_axes = axes_of("out_axis", out_axis, ndim)
        batch_axes = axes_of("batch_axis", batch_axis, ndim)
        left_out = {*batch_axes, *(out_axes if fan == "fan_in" else in_axes)}
        size = math.prod(shape[axis] for axis in range(ndim) if axis not in left_out)
        scale = standard_deviation(size, in_degree, readout=readout)
        kernel = normal(key, shape, dtype, scale)
        return kernel if out_sharding is None else jax.device_put(kernel, out_sharding)

    return init
