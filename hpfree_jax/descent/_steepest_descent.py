"""The direction of steepest descent in the norms that fit each parameter's role."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    all_finite,
    check_in_interval,
    divisible,
    is_inexact,
    select_state,
    transformation,
)
from hpfree_jax._paths import did_you_mean, is_under, left_out, named_leaves
from hpfree_jax.descent._gradients import (
    average,
    check_layout_type,
    init_average,
    layout_of,
    matrices_of,
    read_gradients,
    write_updates,
)
from hpfree_jax.descent._orthogonalize import initial_bases, spectral_directions
from hpfree_jax.layouts import Layout, Vector


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

    >>> from hpfree_jax.layouts import Matrix
    >>> layout = Layout({"kernel": Matrix(in_axes=0, out_axes=1)})
    >>> tx = scale_by_steepest_descent(layout)
    >>> grads = {"kernel": jnp.array([[3.0, 0.0], [0.0, 0.1]])}
    >>> updates, state = tx.update(grads, tx.init(grads))
    >>> print(jnp.round(updates["kernel"], 2))
    [[1. 0.]
     [0. 1.]]
    """
    check_in_interval("momentum", momentum, 0, 1, include_low=True)
    check_layout_type(layout)
    tables, ranks = frozenset(tables), dict(ranks or {})
    _check_ranks(ranks)

    def rules_of(tree):
        rules = layout_of(tree, layout, needs_leaders=False)
        _check_paths(tree, rules, tables=tables, ranks=ranks)
        return rules

    def spectral(leaves, rules):
        """The leaves that are orthogonalised."""
        matrices = matrices_of(leaves, rules)
        return {name: leaf for name, leaf in matrices.items() if name not in tables}

    def smooth(grads, old):
        """The moving averages, and the gradients with momentum."""
        decay = jnp.asarray(momentum, accumulator_dtype())
        averages, newest = average(decay, old, grads)
        if nesterov:
            _, newest = average(decay, averages, grads)
        return averages, {name: newest[name] for name in grads}

    def init_fn(params):
        rules = rules_of(params)
        leaves = {
            leaf.name: leaf.value
            for leaf in named_leaves(params)
            if is_inexact(leaf.value)
        }
        return SteepestDescentState(
            init_average(params, momentum),
            initial_bases(spectral(leaves, rules), rules, ranks) if ranks else None,
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        rules = rules_of(updates)
        grads, dtypes = read_gradients(updates, params, rules)
        is_finite = all_finite(grads)
        averages = None
        if state.momentum is not None:
            averages, grads = smooth(grads, state.momentum)
        directions, bases = spectral_directions(
            spectral(grads, rules), rules, ranks, state.bases
        )
        directions |= _unit_rows(grads, rules, tables)
        new_state = SteepestDescentState(averages, bases)
        return (
            write_updates(directions, updates, dtypes, is_finite),
            select_state(is_finite, new_state, state),
        )

    return transformation(init_fn, update_fn)


def _check_ranks(ranks):
    for path, rank in ranks.items():
        check_in_interval(f"ranks[{path!r}]", rank, 1, float("inf"), include_low=True)
        if not isinstance(rank, int | np.integer):
            raise TypeError(f"`ranks[{path!r}]` must be a whole number, got {rank!r}.")


def _check_paths(tree, rules, **arguments):
    """Raises unless the paths in the arguments are those of matrices."""
    gaps = left_out(tree)
    for argument, paths in arguments.items() if len(rules) else ():
        for path in paths:
            if path not in rules.matrices and not is_under(path, gaps):
                raise ValueError(
                    f"`{argument}` names `{path}`, which is no matrix of the layout"
                    f"{did_you_mean(path, rules.matrices)}."
                )


def _unit_rows(grads, rules, tables):
    """Vectors, and rows of tables, with unit root mean square."""
    directions = {}
    for name, grad in grads.items():
        if name in tables:
            directions[name] = _unit(grad, rules[name].out_axes)
        elif isinstance(rules[name], Vector):
            axes = [a for a in range(grad.ndim) if a not in rules[name].stack_axes]
            directions[name] = _unit(grad, axes)
    return directions


def _unit(grad, axes):
    """The gradient with unit root mean square over some axes; 0 where it is 0."""
    largest = jnp.max(jnp.abs(grad), axes, keepdims=True, initial=0)
    is_zero = largest == 0
    # Squares leave the range of float32; so does the reciprocal of the largest numbers.
    grad = grad / divisible(jnp.where(is_zero, 1, largest))
    mean_square = jnp.mean(jnp.square(jnp.abs(grad)), axes, keepdims=True)
    return grad / jnp.sqrt(jnp.where(is_zero, 1, mean_square))
