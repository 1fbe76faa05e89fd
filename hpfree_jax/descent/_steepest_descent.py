"""The direction of steepest descent in the norms that fit each parameter's role."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    all_finite,
    check_in_interval,
    is_inexact,
    keep_if,
    stay_put,
    transformation,
    zero_momentum,
)
from hpfree_jax._paths import (
    did_you_mean,
    is_under,
    left_out,
    map_with_name,
    named_leaves,
)
from hpfree_jax.descent._orthogonalize import initial_bases, spectral_directions
from hpfree_jax.layouts._infer import infer_layout
from hpfree_jax.layouts._layout import Layout, Matrix, Vector, check_layout


class SteepestDescentState(NamedTuple):
    """State of :func:`scale_by_steepest_descent`."""

    momentum: PyTree | None  # like params, moving average of gradients; None: off
    bases: Float[Array, " numbers"] | None  # of leading directions; None: no ranks


def scale_by_steepest_descent(
    layout: Layout | None = None,
    *,
    tables: Collection[str] = (),
    ranks: Mapping[str, int] | None = None,
    momentum: ArrayLike = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces each gradient by the direction of steepest descent, of unit length.

    The length is measured by what a layer does to activations whose entries have unit
    root mean square. A matrix, with the scale :math:`s_k` of its layout and the
    kernel positions folded into the fan-in, is orthogonalised:

    .. math:: g_k = U \Sigma V^\top \quad\to\quad s_k\, U V^\top.

    Each row of an embedding table, and each vector, is divided by its root mean
    square. So the result depends neither on the scale of the loss, nor on the width;
    multiplied by a rate, it changes the output of each layer by about that fraction.
    What is exactly zero stays zero.

    Args:
      layout: what each leaf is, best from :meth:`hpfree_jax.Architecture.layout`; None
        infers it from names and shapes by :func:`hpfree_jax.infer_layout`.
      tables: paths of the matrices whose rows are looked up one at a time; a row lies
        along ``out_axes``.
      ranks: by path, for matrices of which only so many leading singular directions
        are orthogonalised, and the others not moved along. The leading directions are
        followed from step to step by subspace iteration, at a fraction of the cost:
        three products with ``rank`` columns instead of about fifteen with all.
      momentum: :math:`\mu` in [0, 1). Above 0, the gradient is replaced by its moving
        average before all else. 0 keeps no memory (under
        ``optax.inject_hyperparams`` only with ``static_args=("momentum",)``).
      nesterov: whether the newest gradient is averaged in once more.

    Returns:
      A transformation for the head of a chain: the sign of the gradient, in the dtype
      of ``params`` (of the gradient, when ``params`` is not given). Masked, ``None``
      and integer leaves, and leaves without a rule, do not move. A call with a
      non-finite gradient returns zero updates and the state as it was.

    Raises:
      ValueError: in the factory if ``momentum`` is out of range; in ``init`` and at the
        first trace if a leaf is ambiguous, the layout does not fit the tree, or one of
        ``tables`` is not a matrix of it.

    References:
      Bernstein and Newhouse, `Old Optimizer, New Norm: An Anthology
      <https://arxiv.org/abs/2409.20325>`_, 2024; the scales are AGD's.

    >>> layout = Layout({"kernel": Matrix(in_axes=0, out_axes=1)})
    >>> tx = scale_by_steepest_descent(layout)
    >>> grads = {"kernel": jnp.array([[3.0, 0.0], [0.0, 0.1]])}
    >>> updates, state = tx.update(grads, tx.init(grads))
    >>> print(jnp.round(updates["kernel"], 2))
    [[1. 0.]
     [0. 1.]]
    """
    check_in_interval("momentum", momentum, 0, 1, include_low=True)
    if not isinstance(layout, Layout | None):
        raise TypeError(f"`layout` must be a Layout or None, got {layout!r}.")
    has_momentum = isinstance(momentum, jax.Array) or momentum != 0
    tables, ranks = frozenset(tables), dict(ranks or {})
    for path, rank in ranks.items():
        check_in_interval(f"ranks[{path!r}]", rank, 1, float("inf"), include_low=True)
        if not isinstance(rank, int | np.integer):
            raise TypeError(f"`ranks[{path!r}]` must be a whole number, got {rank!r}.")

    def layout_of(tree):
        if layout is None:
            rules = infer_layout(tree)
        else:
            check_layout(layout, tree, needs_leaders=False)
            rules = layout
        named = {"tables": tables, "ranks": ranks} if len(rules) else {}
        gaps = left_out(tree)
        for argument, paths in named.items():
            for path in paths:
                if path not in rules.matrices and not is_under(path, gaps):
                    raise ValueError(
                        f"`{argument}` names `{path}`, which is no matrix of the layout"
                        f"{did_you_mean(path, rules.matrices)}."
                    )
        return rules

    def matrices(leaves, rules):
        return {
            name: leaf
            for name, leaf in leaves.items()
            if isinstance(rules[name], Matrix) and name not in tables
        }

    def init_fn(params):
        rules = layout_of(params)
        moving = {
            leaf.name: leaf.value
            for leaf in named_leaves(params)
            if is_inexact(leaf.value)
        }
        return SteepestDescentState(
            jax.tree.map(zero_momentum, params) if has_momentum else None,
            initial_bases(matrices(moving, rules), rules, ranks) if ranks else None,
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        rules = layout_of(updates)
        like = {leaf.name: leaf.value for leaf in named_leaves(params)}
        grads = {
            leaf.name: leaf.value.astype(
                jnp.promote_types(leaf.value.dtype, accumulator_dtype())
            )
            for leaf in named_leaves(updates)
            if is_inexact(leaf.value)
            and is_inexact(like.get(leaf.name, leaf.value))
            and rules[leaf.name] is not None
        }
        finite = all_finite(grads)
        averages = None
        if has_momentum:
            decay = jnp.asarray(momentum, accumulator_dtype())

            def average(name, old):
                if name not in grads:
                    return old
                return decay * old + (1 - decay) * grads[name]

            averages = map_with_name(average, state.momentum)
            newest = {leaf.name: leaf.value for leaf in named_leaves(averages)}
            if nesterov:
                newest = {n: average(n, old) for n, old in newest.items()}
            grads = {name: newest[name] for name in grads}

        spectral, bases = spectral_directions(
            matrices(grads, rules), rules, ranks, state.bases
        )
        directions = spectral | _unit_rows(grads, rules, tables)

        def new_update(name, grad):
            dtype = like.get(name, grad).dtype
            if name not in directions:
                return stay_put(grad, dtype)
            return jnp.where(finite, directions[name], 0).astype(dtype)

        updates = map_with_name(new_update, updates)
        return updates, keep_if(finite, SteepestDescentState(averages, bases), state)

    return transformation(init_fn, update_fn)


def _unit_rows(grads, rules, tables):
    """Vectors, and rows of tables, with unit root mean square."""
    directions = {}
    for name, grad in grads.items():
        rule = rules[name]
        if isinstance(rule, Vector):
            axes = [a for a in range(grad.ndim) if a not in rule.stack_axes]
            directions[name] = _unit(grad, axes)
        elif name in tables:
            directions[name] = _unit(grad, rule.out_axes)
    return directions


def _unit(grad, axes):
    """The gradient with unit root mean square over some axes; 0 where it is 0."""
    largest = jnp.max(jnp.abs(grad), axes, keepdims=True, initial=0)
    is_zero = largest == 0
    grad = grad / jnp.where(is_zero, 1, largest)  # squares leave the range of float32
    mean_square = jnp.mean(jnp.square(jnp.abs(grad)), axes, keepdims=True)
    return grad / jnp.sqrt(jnp.where(is_zero, 1, mean_square))
