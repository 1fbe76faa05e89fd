"""Semi-orthogonal matrices at AGD's scale, one per kernel position."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from hpfree_jax._base import check_in_interval
from hpfree_jax.layouts import Matrix


def scaled_orthogonal(
    scale_divisor: float = 1.0,
    in_axis: int | Sequence[int] = -2,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
) -> Initializer:
    r"""Makes an initialiser of scaled semi-orthogonal matrices.

    At each kernel position the matrix from fan-in to fan-out is uniformly distributed
    over the semi-orthogonal matrices (Haar measure) times

    .. math:: s = \sqrt{d_{out} / (m\, d_{in})} / \sqrt{K},

    so that all its singular values equal :math:`s`.

    Args:
      scale_divisor: :math:`m`, see :class:`hpfree_jax.Matrix`.
      in_axis: axis or axes of the input, of sizes that multiply to :math:`d_{in}`.
      out_axis: axis or axes of the output, of sizes that multiply to :math:`d_{out}`.
      batch_axis: axis or axes of independent matrices that belong to different layers
        (stacked layers). All axes left are kernel positions, :math:`K` in all.

    Returns:
      ``init(key, shape, dtype=float32)``, as in :mod:`jax.nn.initializers`, which
      Flax takes as ``kernel_init`` and ``embedding_init``. The QR decomposition runs
      in float32 or better, whatever ``dtype`` is.

    Raises:
      ValueError: if an argument is out of range, or a shape lacks one of the axes.

    References:
      Bernstein et al., `Automatic Gradient Descent
      <https://arxiv.org/abs/2304.05187>`_, 2023. Its experiments section prints the
      ratio of the fans upside down; its theory has it as here.

    >>> kernel = scaled_orthogonal()(jax.random.key(0), (4, 16))
    >>> print(jnp.linalg.svd(kernel, compute_uv=False).round(3))  # sqrt(16 / 4)
    [2. 2. 2. 2.]
    """
    check_in_interval("scale_divisor", scale_divisor, 0, float("inf"))

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        rule = _rule(len(shape))
        precise = jnp.promote_types(dtype, jnp.float32)
        d_in, d_out, _ = rule.fans(shape)
        order = (*rule.stack_axes, *rule.position_axes, *rule.in_axes, *rule.out_axes)
        num_batch = len(shape) - len(rule.in_axes) - len(rule.out_axes)
        batch = tuple(shape[axis] for axis in order[:num_batch])
        tall = (max(d_in, d_out), min(d_in, d_out))
        q, r = jnp.linalg.qr(jax.random.normal(key, (*batch, *tall), precise))
        # QR fixes signs by convention; those of R's diagonal make Q uniform again.
        diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
        q = q * jnp.where(diagonal < 0, -1, 1)[..., None, :].astype(precise)
        if d_in < d_out:
            q = jnp.swapaxes(q, -1, -2)
        matrices = (rule.scale(shape) * q).astype(dtype)
        kernel = matrices.reshape([shape[axis] for axis in order])
        kernel = jnp.transpose(
            kernel, [order.index(axis) for axis in range(len(shape))]
        )
        return kernel if out_sharding is None else jax.device_put(kernel, out_sharding)

    def _rule(ndim: int) -> Matrix:
        in_axes = axes_of("in_axis", in_axis, ndim)
        out_axes = axes_of("out_axis", out_axis, ndim)
        batch_axes = tuple(sorted(axes_of("batch_axis", batch_axis, ndim)))
        taken = (*in_axes, *out_axes, *batch_axes)
        if len(set(taken)) < len(taken):
            raise ValueError(
                f"`in_axis` {in_axis}, `out_axis` {out_axis} and `batch_axis` "
                f"{batch_axis} must be different axes of a shape of {ndim} axes."
            )
        positions = tuple(axis for axis in range(ndim) if axis not in taken)
        return Matrix(in_axes, out_axes, positions, batch_axes, scale_divisor)

    return init


def axes_of(name: str, axes: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in axes:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"`{name}` {axis} is no axis of a shape of {ndim} axes. A matrix has "
                "at least two; use zeros or ones for vectors."
            )
    return tuple(axis % ndim for axis in axes)
