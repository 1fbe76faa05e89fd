"""Shapes of a learning rate over the course of training."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from hpfree_jax._errors import UserError, look_up


def _staircase(t):
    return jnp.where(t < 0.5, 1.0, jnp.where(t < 0.75, 0.1, 0.01))


def _cosine(t):
    return 0.5 * (1 + jnp.cos(math.pi * t))


def _cosine_restarts(t):
    # Cycles of one, two and four sevenths: each is twice as long as the one before.
    start = jnp.where(t < 1 / 7, 0.0, jnp.where(t < 3 / 7, 1 / 7, 3 / 7))
    length = jnp.where(t < 1 / 7, 1 / 7, jnp.where(t < 3 / 7, 2 / 7, 4 / 7))
    return _cosine((t - start) / length)


# From the share of the training that is done, in [0, 1], to a factor of the rate.
SCHEDULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "constant": jnp.ones_like,
    "cosine": _cosine,
    "staircase": _staircase,
    "exponential": lambda t: 0.01**t,
    "cosine_restarts": _cosine_restarts,
}


def make_schedule(
    name: str, learning_rate: float, total_steps: int, warmup_fraction: float = 0.0
) -> optax.Schedule:
    r"""Makes a schedule for optax: a linear warm-up, then one of the shapes.

    With :math:`t` in [0, 1] the share done of the steps after the warm-up, the factor
    of the rate is 1 for ``constant``; :math:`(1 + \cos \pi t)/2` for ``cosine``; 1, a
    tenth from one half and a hundredth from three quarters on for ``staircase``;
    :math:`100^{-t}` for ``exponential``; and for ``cosine_restarts`` three cosines,
    each twice as long as the one before. During the warm-up, step :math:`i` of
    :math:`n` (counted from 1) has the factor :math:`i / n`.

    Args:
      name: a key of :data:`SCHEDULES`.
      learning_rate: the largest rate.
      total_steps: updates in the whole training.
      warmup_fraction: share of the steps that are warm-up, in [0, 1).

    Raises:
      UserError: if there is no such schedule, or the fraction is out of range.

    >>> schedule = make_schedule("cosine", 0.1, 100)
    >>> [round(float(schedule(step)), 3) for step in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """
    shape = look_up("schedule", name, SCHEDULES)
    if not 0 <= warmup_fraction < 1:
        raise UserError(f"`warmup_fraction` must lie in [0, 1), got {warmup_fraction}")
    warmup_steps = round(warmup_fraction * total_steps)
    decay_steps = max(total_steps - warmup_steps, 1)

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        warmup = (count + 1) / max(warmup_steps, 1)
        factor = shape(jnp.clip((count - warmup_steps) / decay_steps, 0, 1))
        return learning_rate * jnp.where(count < warmup_steps, warmup, factor)

    return schedule
