"""Finds the largest hyper-learning-rate with which a run does not diverge."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def find_hyper_learning_rate(
    run: Callable[[Float[Array, ""]], Float[Array, " steps"]],
    candidates: Sequence[float],
) -> float:
    """Returns the largest candidate with which a short run does not diverge.

    All candidates run at once, vmapped in one compilation. A run *diverges* if one of
    its losses is not finite, or if it ends above its own lowest point by more than
    half of the largest descent that any candidate achieved. Losses count as means over
    tenths of the run, so that noise does not decide, and only their differences are
    compared: neither the sign nor the scale of the loss matters.

    Args:
      run: trains from the start for some steps, a function of the rate without side
        effects that JAX can trace; returns the loss of each step. A few hundred steps
        are enough to see most divergences, not all.
      candidates: rates to try, positive and finite, in any order: say
        ``[10.0**-k for k in range(2, 10)]``.

    Raises:
      ValueError: if a candidate or what ``run`` returns is not as described; if every
        candidate diverges.

    >>> def run(rate):  # gradient descent on w^2 / 2 diverges above 2
    ...     return (1 - rate) ** (2 * jnp.arange(50))
    >>> find_hyper_learning_rate(run, [0.01, 0.1, 1.0, 10.0])
    1.0
    """
    rates = np.asarray(candidates, float)
    if rates.ndim != 1 or not rates.size:
        raise ValueError(
            f"`candidates` must be a list of rates, at least one; got {candidates!r}."
        )
    if not np.all(np.isfinite(rates) & (rates > 0)):
        raise ValueError(
            f"`candidates` must be positive and finite, got {rates.tolist()}."
        )
    losses = np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(rates)), float)
    if losses.ndim != 2 or losses.shape[1] < 2:
        raise ValueError(
            "`run` must return the losses of at least 2 steps, of shape (steps,); got "
            f"shape {losses.shape[1:]}."
        )
    diverges = ~np.all(np.isfinite(losses), axis=1)
    if not diverges.all():
        tenths = np.array_split(losses, min(10, losses.shape[1]), axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            means = np.stack([tenth.mean(axis=1) for tenth in tenths], axis=1)
            rises = means[:, -1] - means.min(axis=1)
            descents = means[:, 0] - means.min(axis=1)
        largest_descent = descents[~diverges].max()
        diverges |= ~(rises <= largest_descent / 2)
    if diverges.all():
        raise ValueError(
            f"Every candidate diverges: {sorted(rates.tolist())}. Try smaller ones, or "
            "a run that does not diverge with the hyper-learning-rate 0."
        )
    return float(rates[~diverges].max())
