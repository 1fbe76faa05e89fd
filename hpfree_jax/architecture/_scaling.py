"""Learning rates that follow the depths of all paths through a model."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hpfree_jax.architecture._dag import Dag
from hpfree_jax.architecture._graph import LayerGraph

SMALLEST_VALIDATED_FACTOR = 1e-2

Depths = LayerGraph | Dag | Mapping[int, int] | Iterable[int]


def scale_learning_rate(
    base_learning_rate: float,
    depths: Depths,
    *,
    base_depths: Depths = (3,),
    kernel_size: int = 3,
    base_kernel_size: int = 3,
) -> float:
    r"""Transfers the learning rate of a base network to another architecture.

    With :math:`L_p` the number of layers on path :math:`p`, over all paths from an
    input to an output, and :math:`q` the kernel size,

    .. math::
        \eta = \eta_\text{base} \cdot
        \Big(\frac{\sum_p L_p^3}{\sum_{p \in \text{base}} L_p^3}\Big)^{-1/2}
        \cdot \frac{q_\text{base}}{q} .

    The base network itself gets exactly ``base_learning_rate``. Derived for ReLU
    networks without normalisation at the first step of gradient descent, and validated
    by its authors on DAGs of at most five nodes and on single cells of NAS-Bench-201.
    The number of paths doubles with each residual block, so that the factor collapses
    for whole residual networks (8e-3 for a ResNet-18): take the statistics of one block
    from :meth:`Architecture.subgraph`, as the authors' code does with cells.

    Args:
      base_learning_rate: the largest rate that trains the base network, see
        :func:`find_max_learning_rate`.
      depths: path depths of the network to be trained, with its stem and readout: an
        :class:`Architecture`, a :class:`Dag` (use :meth:`Dag.with_layers`), ``{depth:
        number of paths}``, or one depth for each path.
      base_depths: depths of the base network, in the same forms; by default a stem, one
        hidden layer and a readout.
      kernel_size: kernel size of the network's convolutions.
      base_kernel_size: kernel size of the base network's convolutions.

    Returns:
      The learning rate. Warns if the factor is below 1e-2.

    Raises:
      ValueError: if a rate, kernel size, depth or count is not positive, or if there
        is no path or no layer on any path.

    References:
      Chen et al., `Principled Architecture-aware Scaling of Hyperparameters
      <https://arxiv.org/abs/2402.17440>`_, ICLR 2024, equations 8 and 9. Differs: its
      code adds three layers to the DAG where its base network has two besides the
      hidden one, so that it gives the base network 0.65 times its own rate;
      ``parse_dag(code).with_layers(3)`` reproduces that.

    >>> from hpfree_jax.architecture import parse_dag
    >>> scale_learning_rate(0.1, [3])
    0.1
    >>> round(scale_learning_rate(0.1, parse_dag("2_12_022").with_layers(2)), 4)
    0.0354
    """
    _check_positive("base_learning_rate", base_learning_rate)
    _check_positive("kernel_size", kernel_size)
    _check_positive("base_kernel_size", base_kernel_size)
    total = _sum_of_cubes("depths", depths)
    base = _sum_of_cubes("base_depths", base_depths)
    # Exact integers of any size: a ratio of floats would overflow.
    factor = math.sqrt(Fraction(base, total)) if total != base else 1.0
    factor *= base_kernel_size / kernel_size
    if factor < SMALLEST_VALIDATED_FACTOR:
        warnings.warn(
            f"The learning rate is scaled by {factor:.1e}. The sum over paths grows "
            "exponentially with residual blocks, and factors this small were never "
            "validated. Use the statistics of one block, as the authors do: "
            "scale_learning_rate(rate, arch.subgraph(prefix_of_a_block), ...).",
            stacklevel=2,
        )
    return float(base_learning_rate) * factor


def find_max_learning_rate(
    run: Callable[[Array], Float[Array, " steps"]],
    candidates: Sequence[float] | ArrayLike,
    *,
    vectorize: bool = True,
) -> float:
    """Finds the learning rate with the lowest training loss at the end of a short run.

    The first step of the recipe: search once on the smallest network of a family, for
    one epoch, and transfer the rate with :func:`scale_learning_rate`.

    Args:
      run: ``run(learning_rate) -> losses`` of shape (steps,), a pure function that
        trains from the same initial state each time. Only the last loss counts.
      candidates: learning rates to try, a sequence of positive numbers.
      vectorize: runs all candidates in one ``jax.vmap``; False runs one after the
        other, which needs less memory and suits convolutional networks on the CPU.
        Either way ``run`` is compiled once.

    Returns:
      The candidate of the lowest last loss, the smaller one if tied. A run with a
      non-finite loss is never chosen.

    Raises:
      ValueError: if a candidate is not positive and finite, if ``run`` does not return
        a vector of losses, or if every run has a non-finite loss.

    >>> def run(learning_rate):  # x ** 2 from x = 1: one step to 0 at the rate 0.5
    ...     return jnp.stack([1.0, (1 - 2 * learning_rate) ** 2])
    >>> find_max_learning_rate(run, [0.1, 0.4, 0.9, float("1e30")])
    0.4
    """
    rates = np.asarray(candidates, dtype=float)
    if rates.ndim != 1 or not rates.size:
        raise ValueError(
            f"`candidates` must be a non-empty sequence of learning rates, got an "
            f"array of shape {rates.shape}."
        )
    if not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(f"`candidates` must be positive and finite, got {rates}.")

    def checked(rate):
        losses = jnp.asarray(run(rate))
        if losses.ndim != 1 or not losses.size:
            raise ValueError(
                "`run` must return the losses of all steps, of shape (steps,), got "
                f"the shape {losses.shape}."
            )
        return losses

    inputs = jnp.asarray(rates, jnp.zeros((), float).dtype)
    if vectorize:
        losses = np.asarray(jax.jit(jax.vmap(checked))(inputs))
    else:
        single = jax.jit(checked)
        losses = np.stack([np.asarray(single(rate)) for rate in inputs])
    finite = np.isfinite(losses).all(axis=1)
    if not finite.any():
        raise ValueError(
            f"Every one of the {rates.size} runs has a non-finite loss. Try smaller "
            f"rates than {rates.min():g}."
        )
    last = np.where(finite, losses[:, -1].astype(float), np.inf)
    return float(rates[last == last.min()].min())


def _sum_of_cubes(name: str, depths: Any) -> int:
    if isinstance(depths, LayerGraph | Dag):
        total = depths.sum_cubed_depths
    else:
        if isinstance(depths, str):
            raise TypeError(
                f"`{name}` is the string {depths!r}. Parse it first: "
                f"parse_dag({depths!r}).with_layers(2), for a stem and a readout."
            )
        if isinstance(depths, Mapping):
            pairs = list(depths.items())
        else:
            pairs = [(depth, 1) for depth in depths]
        for depth, count in pairs:
            if depth != int(depth) or count != int(count) or depth < 0 or count < 1:
                raise ValueError(
                    f"`{name}` has {count} path(s) of depth {depth}: a depth must be "
                    "an integer of at least 0, and a number of paths of at least 1."
                )
        total = sum(int(count) * int(depth) ** 3 for depth, count in pairs)
    if total == 0:
        raise ValueError(
            f"`{name}` has no path with a layer, so that no learning rate follows. "
            "Count the layers outside of a DAG too: Dag.with_layers(2)."
        )
    return total


def _check_positive(name: str, value: Any) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be positive and finite, got {value}.")
