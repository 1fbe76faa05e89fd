"""Automatic gradient descent (AGD): a step size read off gradient and layout."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    check_choice,
    check_in_interval,
    is_inexact,
    negate,
    replicated,
    scalar_like,
    select_state,
    total,
    transformation,
    widen,
    zero_update,
)
from hpfree_jax._paths import map_with_name, named_leaves
from hpfree_jax.descent._gradients import init_average
from hpfree_jax.descent._orthogonalize import spectral_directions
from hpfree_jax.layouts import Layout, Matrix, Vector, check_layout, infer_layout

Norm = Literal["frobenius", "spectral"]
"""The norms of weights that :func:`scale_by_agd` knows."""


class AGDState(NamedTuple):
    """State of :func:`scale_by_agd`; scalars are float32, or float64 under x64."""

    count: Int[Array, ""]  # int32, steps taken: calls with finite gradients
    learning_rate: Float[Array, ""]  # eta of the last step, 0 before the first
    gradient_summary: Float[Array, ""]  # G of the last step, 0 before the first
    momentum: PyTree | None  # like params, moving average of directions; None: off


def scale_by_agd(
    gain: ArrayLike = 1.0,
    layout: Layout | None = None,
    *,
    norm: Norm = "frobenius",
    momentum: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by AGD's automatic step, without the sign.

    With :math:`L = \sum_k n_k` layers, where layer :math:`k` has fan-in
    :math:`d_{in}`, fan-out :math:`d_{out}`, :math:`K` kernel positions, scale divisor
    :math:`m_k` and depth count :math:`n_k` (see :class:`hpfree_jax.Matrix`):

    .. math::
        s_k &= \sqrt{d_{out} / (m_k d_{in})} / \sqrt{K} \\
        G &= \tfrac1L \sum_k s_k \sum_{\text{positions}} \|g_k\|_F \\
        \eta &= \log\tfrac{1 + \sqrt{1 + 4G}}{2} \\
        u_k &= \text{gain} \cdot \tfrac{\eta}{L} \cdot s_k\, g_k / \|g_k\|_F

    The norm is taken over fan-in and fan-out for each position apart, and a position
    whose gradient is exactly zero gets a zero update. A vector (bias, or scale or
    shift of a normalisation) follows its leader :math:`k`:
    :math:`u = \text{gain} \cdot \frac\eta L \cdot s_k\, g / \|g_k\|_F`, the norm over
    the leader's whole gradient; it counts neither in :math:`G` nor in :math:`L`.

    AGD assumes weights drawn by
    :func:`hpfree_jax.initializers.scaled_orthogonal`, inputs and targets of unit
    root mean square, and a loss that is a mean over the batch.

    Args:
      gain: multiplies the update, and neither :math:`\eta` nor :math:`G`. No unit; 1
        is the derived value, larger is faster and less safe.
      layout: what each leaf is; None infers it at trace time from names and shapes
        by :func:`hpfree_jax.infer_layout`, which raises where they do not say.
      norm: of the weights. ``"frobenius"``, that of the paper; or ``"spectral"``: the
        matrices' :math:`g_k / \|g_k\|_F` is replaced by the nearest semi-orthogonal
        matrix, :math:`U V^\top` of :math:`g_k = U \Sigma V^\top`, whose singular
        values are all 1, with the kernel positions folded into the fan-in. All else
        is as above, :math:`G` and the vectors included.
      momentum: :math:`\mu` in [0, 1). Above 0, :math:`s_k\, g_k / \|g_k\|_F` is
        replaced by its bias-corrected moving average, so that the update never
        exceeds the length that AGD derived; under the spectral norm, each gradient
        by its moving average before it is orthogonalised, but for :math:`G`. 0 keeps
        no memory (under ``optax.inject_hyperparams`` only with
        ``static_args=("momentum",)``).

    Returns:
      A transformation for the head of a chain. Updates have the sign of the gradient
      and the dtype of ``params`` (of the gradient, when ``params`` is not given).
      Masked, ``None`` and integer leaves count in no norm and no :math:`L`. A call
      with a non-finite gradient (or one whose squared norm overflows) returns zero
      updates and the state as it was, ``count`` included. A gradient whose square
      underflows (below about 1e-23 in float32) counts as zero.

    Raises:
      ValueError: in the factory if an argument is out of range; in ``init`` and at
        the first trace if a leaf is ambiguous or the layout does not fit the tree.

    References:
      Bernstein et al., `Automatic Gradient Descent: Deep Learning without
      Hyperparameters <https://arxiv.org/abs/2304.05187>`_, 2023. Differs: biases,
      affine parameters, depth counts and scale divisors come from its authors'
      experimental extension, whose division by a zero norm, unused gain, and divisor
      left out of the update are not taken over.

    >>> params = {"kernel": jnp.array([[3.0], [4.0]])}
    >>> grads = {"kernel": jnp.array([[0.0], [12.0]])}
    >>> tx = scale_by_agd()
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> print(f"G = sqrt(1 / 2) * 12 = {state.gradient_summary:.3f}")
    G = sqrt(1 / 2) * 12 = 8.485
    >>> print(updates["kernel"].T / state.learning_rate)  # sqrt(1 / 2) * grad / |grad|
    [[0.         0.70710677]]
    """
    check_in_interval("gain", gain, 0, float("inf"))
    check_in_interval("momentum", momentum, 0, 1, include_low=True)
    check_choice("norm", norm, get_args(Norm))
    if not isinstance(layout, Layout | None):
        raise TypeError(f"`layout` must be a Layout or None, got {layout!r}.")
    # An array may be a tracer under inject_hyperparams: only a Python 0 turns the
    # memory off.
    has_momentum = isinstance(momentum, jax.Array) or momentum != 0

    def layout_of(tree):
        if layout is None:
            return infer_layout(tree)
        check_layout(layout, tree)
        return layout

    def init_fn(params):
        layout_of(params)
        dtype = accumulator_dtype()
        return AGDState(
            count=scalar_like(params, 0, jnp.int32),
            learning_rate=scalar_like(params, 0.0, dtype),
            gradient_summary=scalar_like(params, 0.0, dtype),
            momentum=init_average(params, momentum),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        rules = layout_of(updates)
        like = {leaf.name: leaf.value for leaf in named_leaves(params)}
        grads = {
            leaf.name: leaf.value
            for leaf in named_leaves(updates)
            if is_inexact(leaf.value)
            and is_inexact(like.get(leaf.name, leaf.value))
            and rules[leaf.name] is not None
        }
        depth = _depth(grads, rules)
        directions, summary = _normalise(grads, rules)
        summary = summary / max(depth, 1)
        # log((1 + sqrt(1 + 4G)) / 2), written so that a tiny G does not round to 0.
        learning_rate = jnp.log1p(2 * summary / (1 + jnp.sqrt(1 + 4 * summary)))

        vector_sums = [
            jnp.sum(jnp.abs(directions[name]))
            for name in grads
            if isinstance(rules[name], Vector)
        ]
        finite = jnp.isfinite(total([summary, *vector_sums]))

        count = jnp.asarray(optax.safe_increment(state.count))
        averages = None
        if has_momentum:
            decay = jnp.asarray(momentum, summary.dtype)
            averaged = grads if norm == "spectral" else directions

            def average(name, old):
                if name not in averaged:
                    return old
                return decay * old + (1 - decay) * averaged[name].astype(old.dtype)

            averages = map_with_name(average, state.momentum)
            # The count is an integer. (A quotient computed once is rounded otherwise.)
            with jax.numpy_dtype_promotion("standard"):
                averaged = {
                    leaf.name: leaf.value / (1 - decay**count)
                    for leaf in named_leaves(averages)
                    if leaf.name in averaged
                }
            if norm == "spectral":
                directions, _ = _normalise(averaged, rules)
                grads = averaged
            else:
                directions = averaged
        if norm == "spectral":
            directions |= spectral_directions(_matrices(grads, rules), rules)[0]
        new_state = AGDState(count, learning_rate, summary, averages)

        step = jnp.asarray(gain, summary.dtype) * learning_rate / max(depth, 1)

        def new_update(name, grad):
            dtype = like.get(name, grad).dtype
            if name not in directions:
                return zero_update(grad, dtype)
            return jnp.where(finite, step * directions[name], 0).astype(dtype)

        updates = map_with_name(new_update, updates)
        return updates, select_state(finite, new_state, state)

    return transformation(init_fn, update_fn)


def agd(
    gain: ArrayLike = 1.0,
    layout: Layout | None = None,
    *,
    norm: Norm = "frobenius",
    momentum: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Automatic gradient descent, ready for ``optax.apply_updates``.

    :func:`scale_by_agd` with the sign of a descent step, and the same state.

    >>> import hpfree_jax as hp
    >>> params = {"kernel": jnp.array([[2.0]])}
    >>> tx = hp.agd()
    >>> state = tx.init(params)
    >>> for _ in range(50):  # minimises (kernel - 1)^2 without a learning rate
    ...     grads = jax.tree.map(lambda w: 2 * (w - 1), params)
    ...     updates, state = tx.update(grads, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> print(f"{params['kernel'].item():.2f}")
    1.00
    """
    direction = scale_by_agd(gain, layout, norm=norm, momentum=momentum)

    def update_fn(updates, state, params=None, **extra_args):
        updates, state = direction.update(updates, state, params, **extra_args)
        return jax.tree.map(negate, updates), state

    return transformation(direction.init, update_fn)


def _matrices(grads, rules):
    return {n: g for n, g in grads.items() if isinstance(rules[n], Matrix)}


def _depth(grads, rules) -> int:
    """L, the number of layers that the matrices among the gradients count for."""
    matrices = _matrices(grads, rules)
    depth = sum(
        rules[name].depth_count * rules[name].num_slices(grad.shape)
        for name, grad in matrices.items()
    )
    if matrices and depth == 0:
        raise ValueError(
            f"The depth counts of {', '.join(f'`{name}`' for name in matrices)} add up "
            "to 0. Give at least one matrix a `depth_count` of 1."
        )
    return depth


def _normalise(grads, rules):
    """Returns the directions s_k g / ||g_k||, and L times the gradient summary."""
    directions, ratios, summands = {}, {}, []
    for name, grad in _matrices(grads, rules).items():
        rule, scale = rules[name], rules[name].scale(grad.shape)
        grad = widen(grad)
        # A sum and not a vdot, which fails on leaves sharded along their last axis.
        squares = jnp.sum(
            jnp.square(jnp.abs(grad)),
            axis=(*rule.in_axes, *rule.out_axes),
            keepdims=True,
        )
        norms = _sqrt(squares)
        summands.append(scale * jnp.sum(norms))
        directions[name] = grad * _ratio(scale, norms)
        whole_norm = _sqrt(jnp.sum(squares, axis=rule.position_axes, keepdims=True))
        ratios[name] = _ratio(scale, whole_norm)

    for name, grad in grads.items():
        rule = rules[name]
        if not isinstance(rule, Vector):
            continue
        ratio, stack_axes = ratios[rule.leader], rules[rule.leader].stack_axes
        ratio = jnp.squeeze(
            ratio, [a for a in range(ratio.ndim) if a not in stack_axes]
        )
        ratio = jnp.expand_dims(
            replicated(ratio), [a for a in range(grad.ndim) if a not in rule.stack_axes]
        )
        directions[name] = widen(grad) * ratio
    return directions, total(summands)


def _sqrt(squares):
    """The square root, with the derivative 0 at 0."""
    is_zero = squares == 0  # and not `> 0`, which would hide a NaN
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))


def _ratio(scale, norms):
    """Scale / norms, and 0 where the norm is 0."""
    return jnp.where(norms > 0, scale / jnp.where(norms > 0, norms, 1), 0)
