"""The nearest semi-orthogonal matrix, by matrix products only."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from hpfree_jax._base import accumulator_dtype, replicated
from hpfree_jax._layout import Matrix

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
    r"""Returns :math:`U V^\top` of the singular value decompositions
    :math:`U \Sigma V^\top`, up to a small error.

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
    rows, columns = matrices.shape[-2:]
    if rows > columns:
        return _transpose(orthogonalize(_transpose(matrices)))
    # Fourth powers of tiny or huge numbers leave float32: the largest entry becomes 1.
    # How the matrix is scaled does not change the result: no derivative comes from it.
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(matrices)), (-2, -1), keepdims=True)
    matrices = matrices / jnp.where(largest == 0, 1, largest)
    gram = _product(matrices, _transpose(matrices))
    squares = jnp.sum((gram * gram.conj()).real, (-2, -1), keepdims=True)
    size = jnp.sqrt(jnp.where(largest == 0, 1, squares))
    gram, matrices = gram / size, matrices / jnp.sqrt(size)
    steps = STEPS
    if jnp.finfo(matrices.dtype).eps < 1e-10:
        steps += POLISH
    # In products of rows^3: three for each step on the matrix itself if it is square,
    # four on the Gram matrix.
    if 2 * columns > 3 * rows:
        return _product(_inverse_root(gram, steps), matrices)
    for index, step in enumerate(steps):
        if index:
            gram = _product(matrices, _transpose(matrices))
        matrices = _product(_polynomial(gram, step), matrices)
    return matrices


def _inverse_root(gram, steps):
    """The product of the factors by which all steps multiply a matrix, of its Gram."""
    root = None
    for index, step in enumerate(steps):
        factor = _polynomial(gram, step)
        root = factor if root is None else _product(factor, root)
        if index + 1 < len(steps):
            gram = _product(_product(factor, gram), factor)
            gram = (gram + _transpose(gram)) / 2  # rounding must not add up
    return root


def _polynomial(gram, step):
    """a + b A + c A^2."""
    a, b, c = (jnp.asarray(number, gram.real.dtype) for number in step)
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    return a * identity + b * gram + c * _product(gram, gram)


def _product(left, right):
    # The default of accelerators rounds factors to 10 or 8 bits, in which squared
    # singular values drown.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _transpose(matrices):
    return jnp.swapaxes(matrices, -1, -2).conj()


def spectral_directions(
    leaves: Mapping[str, Array], rules: Mapping[str, Any]
) -> dict[str, Array]:
    r"""Returns :math:`s_k U_k V_k^\top` for each matrix of each leaf.

    The kernel positions are folded into the fan-in; each slice of a stack is a matrix
    of its own. Matrices of equal shape, up to transposition, are computed together.

    Args:
      leaves: by name.
      rules: a :class:`hpfree_jax.Matrix` for each of these.

    Returns:
      The directions in the precision of the accumulators, with the shardings of the
      leaves. On a mesh with explicit axes, each device computes whole matrices.
    """
    groups = collections.defaultdict(list)
    results = {name: jnp.zeros_like(leaf) for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        if not leaf.size:
            continue
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, accumulator_dtype()))
        matrices = _to_matrices(leaf, rules[name])
        if matrices.shape[1] > matrices.shape[2]:
            matrices = _transpose(matrices)
        groups[matrices.shape[1:], matrices.dtype].append((name, matrices))
    for members in groups.values():
        names, parts = zip(*members, strict=True)
        whole = orthogonalize(jnp.concatenate(parts))
        sizes = [len(part) for part in parts]
        for name, part in zip(names, _split(whole, sizes), strict=True):
            rule, leaf = rules[name], leaves[name]
            results[name] = rule.scale(leaf.shape) * _from_matrices(part, leaf, rule)
    return results


def _order(rule: Matrix) -> tuple[int, ...]:
    """The axes of a leaf in the order of its matrices."""
    return (*rule.stack_axes, *rule.position_axes, *rule.in_axes, *rule.out_axes)


def _to_matrices(leaf: Array, rule: Matrix) -> Array:
    d_in, d_out, positions = rule.fans(leaf.shape)
    shape = (rule.num_slices(leaf.shape), positions * d_in, d_out)
    return jnp.transpose(replicated(leaf), _order(rule)).reshape(shape)


def _from_matrices(matrices: Array, leaf: Array, rule: Matrix) -> Array:
    order = _order(rule)
    shape = tuple(leaf.shape[axis] for axis in order)
    d_in, d_out, positions = rule.fans(leaf.shape)
    if matrices.shape[1:] != (positions * d_in, d_out):
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
    return [array[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
