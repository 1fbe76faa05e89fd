"""The nearest semi-orthogonal matrix, by matrix products only."""

import collections
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from hpfree_jax._base import (
    accumulator_dtype,
    divisible,
    replicated,
    scalar_like,
    widen,
    widened_dtype,
)
from hpfree_jax.layouts import Matrix

# Each row (a, b, c) maps a singular value x to a x + b x^3 + c x^5, and is the odd
# quintic that is nearest to 1 over the interval into which the rows before it have
# brought [0.001, 1] (Remez exchange; tests/test_orthogonalize.py derives them anew).
STEPS = (
    (8.4703288038, -25.1080747067, 18.6292755991),
    (4.1828341833, -3.1087011099, 0.5806066814),
    (3.9618572790, -2.9540637464, 0.5629761180),
    (3.2865862170, -2.4647201345, 0.5073576939),
    (2.2737499944, -1.6446603679, 0.4161909275),
    (1.8887161974, -1.2651572253, 0.3765189256),
)
# Newton-Schulz of the fifth order, cubic convergence from within 0.1 % of 1: what
# float64 has digits for.
POLISH = 2 * ((15 / 8, -10 / 8, 3 / 8),)


def orthogonalize(
    matrices: Inexact[Array, "*stack rows columns"],
) -> Inexact[Array, "*stack rows columns"]:
    r"""Returns the factors :math:`U V^\top` of :math:`U \Sigma V^\top`, nearly.

    The matrices are divided by their Schatten 4-norm
    :math:`(\sum_i \sigma_i^4)^{1/4}`, and their singular values mapped by a fixed
    composition of odd quintic polynomials (Newton-Schulz with the coefficients that are
    best at each step). A singular value of at least 0.001 of that norm ends within
    0.1 % of 1, or 1e-9 in float64; smaller ones end in proportion below it, and a zero
    stays a zero. So does a matrix of zeros.

    Matrices that are much longer than wide are iterated upon through their small Gram
    matrix, which needs two products with the long one in all.

    Args:
      matrices: one matrix, or a stack of them; complex ones with the conjugate
        transpose. Computed in their own dtype, products in full precision.

    References:
      Bernstein and Newhouse, `Old Optimizer, New Norm: An Anthology
      <https://arxiv.org/abs/2409.20325>`_, 2024; Amsel et al., `The Polar Express
      <https://arxiv.org/abs/2505.16932>`_, 2025, for coefficients of this kind.
    """
    shorter, longer = sorted(matrices.shape[-2:])
    is_long, is_tall = _is_long(shorter, longer), matrices.shape[-1] < longer
    if is_tall and not is_long:
        return _transpose(orthogonalize(_transpose(matrices)))
    # Fourth powers of tiny or huge numbers leave float32: the largest entry becomes 1.
    # How the matrix is scaled does not change the result: no derivative comes from it.
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(matrices)), (-2, -1), keepdims=True)
    matrices = matrices / jnp.where(largest == 0, 1, divisible(largest))
    # Tall matrices stay as they are: a transposed copy takes as long as a product.
    factors = matrices, _transpose(matrices)
    gram = _product(*(factors[::-1] if is_tall else factors))
    squares = jnp.sum((gram * gram.conj()).real, (-2, -1), keepdims=True)
    size = jnp.sqrt(jnp.where(largest == 0, 1, squares))
    gram = gram / size
    steps = STEPS
    if jnp.finfo(matrices.dtype).eps < 1e-10:
        steps += POLISH
    if is_long:
        root = _inverse_root(gram, steps) / jnp.sqrt(size)
        return _product(matrices, root) if is_tall else _product(root, matrices)
    matrices = matrices / jnp.sqrt(size)
    for index, step in enumerate(steps):
        if index:
            gram = _product(matrices, _transpose(matrices))
        matrices = _product(_polynomial(gram, step), matrices)
    return matrices


def _is_long(rows: int, columns: int) -> bool:
    """Whether iterating on the Gram matrix needs fewer multiplications.

    A step on the matrix needs two products with it and one of Gram matrices; a step on
    the Gram matrix, four of these.
    """
    return 2 * columns > 3 * rows


def num_multiplications(rows: int, columns: int) -> int:
    """Multiplications that orthogonalising a matrix, not longer than wide, needs."""
    product, small = rows**2 * columns, rows**3
    if _is_long(rows, columns):
        return 2 * product + (4 * len(STEPS) - 3) * small
    return len(STEPS) * (2 * product + small)


def _inverse_root(gram, steps):
    """The product of the factors by which all steps multiply a matrix, of its Gram."""
    root = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    for index, step in enumerate(steps):
        factor = _polynomial(gram, step)
        root = _product(factor, root) if index else factor
        if index + 1 < len(steps):
            gram = _product(_product(factor, gram), factor)
            gram = (gram + _transpose(gram)) / 2  # rounding must not add up
    return root


def _polynomial(gram, step):
    """A + b A + c A^2."""
    a, b, c = (jnp.asarray(number, gram.real.dtype) for number in step)
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    identity = identity.reshape((1,) * (gram.ndim - 2) + identity.shape)
    return a * identity + b * gram + c * _product(gram, gram)


def _product(left, right):
    # The default of accelerators rounds factors to 10 or 8 bits, in which squared
    # singular values drown.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _transpose(matrices):
    return jnp.swapaxes(matrices, -1, -2).conj()


def orthogonalize_leading(
    matrices: Inexact[Array, "stack rows columns"],
    basis: Inexact[Array, "stack shorter rank"],
) -> tuple[Inexact[Array, "stack rows columns"], Inexact[Array, "stack shorter rank"]]:
    r"""Orthogonalises the part of each matrix along its leading singular directions.

    One step of subspace iteration: with the basis :math:`B` of the call before,
    :math:`V = \operatorname{orth}(X^\top B)`, :math:`U = \operatorname{orth}(X V)`; the
    result is :math:`U V^\top`. Called with matrices that change slowly, it follows
    their leading singular vectors. Three products with a factor of ``rank`` columns
    take the place of all those of :func:`orthogonalize`.

    Args:
      matrices: a stack. They may be longer than wide: no product transposes them, which
        would take as long as a product itself.
      basis: of the shorter side; spans the subspace of the call before, at first any
        of full rank.

    Returns:
      The results, of rank at most ``rank``, and the new basis. A direction in which the
      matrix is zero stays in the basis, so that it can come back.
    """
    rows, columns = matrices.shape[-2:]
    # A factor that keeps the products of the largest numbers in range; being a power of
    # two, it changes nothing else, not even the rounding.
    factor = jnp.asarray(2.0**-16, basis.dtype)
    if rows > columns:
        left = orthogonalize(_product(matrices, factor * basis))
        right = orthogonalize(_product(factor * _transpose(left), matrices))
        shorter = _transpose(right)
    else:
        right = orthogonalize(_product(factor * _transpose(basis), matrices))
        shorter = left = orthogonalize(_product(matrices, factor * _transpose(right)))
    gone = jnp.eye(basis.shape[-1])[None] - _product(_transpose(shorter), shorter)
    return _product(left, right), shorter + _product(basis, gone)


class Group(NamedTuple):
    """Matrices of one shape that are computed together.

    Those that are orthogonalised as a whole are turned so that they are not longer than
    wide; those with a rank stay as they are.
    """

    names: tuple[str, ...]  # of the leaves
    counts: tuple[int, ...]  # matrices in each
    rows: int
    columns: int
    rank: int | None  # of what is orthogonalised; None: all

    @property
    def basis_shape(self) -> tuple[int, int, int]:
        """Of the bases of all its matrices; nothing where all is orthogonalised."""
        return (sum(self.counts), min(self.rows, self.columns), self.rank or 0)


def group_by_shape(
    leaves: Mapping[str, Any],
    rules: Mapping[str, Any],
    ranks: Mapping[str, int] | None = None,
) -> list[Group]:
    """Sorts leaves with a :class:`hpfree_jax.Matrix` each into groups.

    Args:
      leaves: by name; only shapes and dtypes are looked at.
      rules: of these, or of more.
      ranks: of the leaves whose leading directions alone are orthogonalised. A rank
        that is not below the smaller side of the matrix is none, and complex
        matrices have none, since bases are real.
    """
    groups: dict[tuple, list[str]] = collections.defaultdict(list)
    for name, leaf in leaves.items():
        d_in, d_out, positions = rules[name].fans(leaf.shape)
        shape = (d_in * positions, d_out)
        rank = (ranks or {}).get(name)
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating)
        rank = rank if rank and rank < min(shape) and is_real else None
        if leaf.size:
            rows, columns = shape if rank else sorted(shape)
            groups[rows, columns, rank, widened_dtype(leaf)].append(name)
    counts = {name: rules[name].num_slices(leaf.shape) for name, leaf in leaves.items()}
    return [
        Group(tuple(names), tuple(counts[name] for name in names), *key[:3])
        for key, names in groups.items()
    ]


def spectral_directions(
    leaves: Mapping[str, Array],
    rules: Mapping[str, Any],
    ranks: Mapping[str, int] | None = None,
    bases: Float[Array, " numbers"] | None = None,
) -> tuple[dict[str, Array], Float[Array, " numbers"] | None]:
    r"""Returns :math:`s_k U_k V_k^\top` for each matrix of each leaf, and new bases.

    The kernel positions are folded into the fan-in; each slice of a stack is a matrix
    of its own. Matrices of equal shape are computed together.

    Args:
      leaves: by name.
      rules: a :class:`hpfree_jax.Matrix` for each of these.
      ranks: as in :func:`group_by_shape`.
      bases: of the call before, from :func:`initial_bases`; None without ranks.

    Returns:
      The directions in the precision of the accumulators, with the shardings of the
      leaves. On a mesh with explicit axes, each device computes whole matrices.
    """
    results = {name: jnp.zeros_like(leaf) for name, leaf in leaves.items()}
    position, new_bases = 0, []
    for group in group_by_shape(leaves, rules, ranks):
        matrices = jnp.concatenate(
            [_to_matrices(leaves[name], rules[name], group) for name in group.names]
        )
        if group.rank is None:
            matrices = orthogonalize(matrices)
        else:
            assert bases is not None
            size = math.prod(group.basis_shape)
            basis = bases[position : position + size].reshape(group.basis_shape)
            matrices, basis = orthogonalize_leading(matrices, basis)
            new_bases.append(basis.reshape(-1).astype(bases.dtype))
            position += size
        parts = _split(matrices, group.counts)
        for name, part in zip(group.names, parts, strict=True):
            rule, leaf = rules[name], leaves[name]
            results[name] = rule.scale(leaf.shape) * _from_matrices(part, leaf, rule)
    return results, jnp.concatenate(new_bases) if new_bases else bases


def initial_bases(
    leaves: Mapping[str, Any], rules: Mapping[str, Any], ranks: Mapping[str, int]
) -> Float[Array, " numbers"]:
    """Random bases of all matrices that have a rank, one after another.

    One array, and at least one number, so that the state that it is part of has the
    same structure whatever the parameters.
    """
    groups = group_by_shape(leaves, rules, ranks)
    size = sum(math.prod(group.basis_shape) for group in groups)
    numbers = jax.random.normal(jax.random.key(0), (max(size, 1),), accumulator_dtype())
    on_the_mesh_of_the_leaves = scalar_like(leaves, 0.0, numbers.dtype)
    return numbers + on_the_mesh_of_the_leaves


def _order(rule: Matrix) -> tuple[int, ...]:
    """The axes of a leaf in the order of its matrices."""
    return (*rule.stack_axes, *rule.position_axes, *rule.in_axes, *rule.out_axes)


def _to_matrices(leaf: Array, rule: Matrix, group: Group) -> Array:
    """The matrices of a leaf, turned as in the group."""
    d_in, d_out, positions = rule.fans(leaf.shape)
    shape = (rule.num_slices(leaf.shape), positions * d_in, d_out)
    leaf = widen(replicated(leaf))
    matrices = jnp.transpose(leaf, _order(rule)).reshape(shape)
    return matrices if shape[1] == group.rows else _transpose(matrices)


def _from_matrices(matrices: Array, leaf: Array, rule: Matrix) -> Array:
    order = _order(rule)
    shape = tuple(leaf.shape[axis] for axis in order)
    d_in, _, positions = rule.fans(leaf.shape)
    if positions * d_in != matrices.shape[1]:
        matrices = _transpose(matrices)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    result = jnp.transpose(matrices.reshape(shape), inverse)
    sharding = jax.typeof(leaf).sharding
    if any(axis is not None for axis in sharding.spec):
        result = jax.sharding.reshard(result, sharding)
    return result


def _split(array: Array, sizes: Sequence[int]) -> list[Array]:
    """Cuts the first axis into parts of these sizes."""
    starts = np.cumsum([0, *sizes])
    return [array[a:b] for a, b in itertools.pairwise(starts)]
