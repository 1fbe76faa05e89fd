"""The curves of AutoWU's schedule, and the numbers that fix them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

WARMUP, DECAY, COOLDOWN = 0, 1, 2


class Plan(NamedTuple):
    """The arguments that say when phases end; numbers, or JAX scalars if injected."""

    total_steps: Any
    steps_per_epoch: Any
    test_every: Any
    warmup_steps: Any  # the call that leaves the warm-up, if no test has left it before
    curve_length: Any  # advances of the warm-up's curve from its low to its high end
    cooldown_start: Any  # the call that begins the cooldown, wherever the run is then


def make_plan(
    total_steps: ArrayLike,
    steps_per_epoch: ArrayLike,
    test_every: ArrayLike | None,
    max_warmup_fraction: ArrayLike,
    cooldown_fraction: ArrayLike,
    warmup_unit: str,
) -> Plan:
    """Computes the calls of ``update`` at which phases end."""
    warmup_steps = _whole(max_warmup_fraction * total_steps, math.floor)
    warmup_epochs = max_warmup_fraction * (total_steps / steps_per_epoch)
    return Plan(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        test_every=steps_per_epoch if test_every is None else test_every,
        warmup_steps=warmup_steps,
        curve_length=(
            warmup_steps if warmup_unit == "step" else _whole(warmup_epochs, math.floor)
        ),
        cooldown_start=_whole((1 - cooldown_fraction) * total_steps, math.ceil),
    )


def num_possible_tests(plan: Plan) -> int | None:
    """How many tests the warm-up can make; None if that is not known yet."""
    numbers = (plan.warmup_steps, plan.curve_length, plan.test_every)
    if any(isinstance(number, jax.Array) for number in numbers):
        return None
    if plan.curve_length == 0:
        return 0
    return max(plan.warmup_steps - 1, 0) // plan.test_every


def _whole(number, rounding):
    if isinstance(number, jax.Array):
        rounding = jnp.floor if rounding is math.floor else jnp.ceil
        return rounding(number).astype(jnp.int32)
    return int(rounding(number))


def warmup_rate(
    warmup_type: str, low: Array, high: Array, fraction: Array
) -> Float[Array, ""]:
    """The warm-up's curve, from ``low`` at the fraction 0 to ``high`` at 1."""
    if warmup_type == "exponential":
        return low * (high / low) ** fraction
    return low * (1 - fraction) + high * fraction


def cooldown_factor(cooldown_type: str, step: Array, length: Array) -> Float[Array, ""]:
    r"""The share of the rate that is left after some of the cooldown's steps.

    With :math:`z = k / K` clipped to [0, 1]: ``cosine`` :math:`(1 + \cos \pi z) / 2`;
    ``half_cosine`` :math:`1 - \sin(\pi z / 2)`, the second half of a cosine scaled to
    start at 1; ``half_cosine_legacy`` half of that.
    """
    share = jnp.clip(step / jnp.maximum(length, 1), 0, 1)
    if cooldown_type == "cosine":
        factor = (1 + jnp.cos(jnp.pi * share)) / 2
    else:
        factor = 1 + jnp.cos(jnp.pi / 2 * (1 + share))
        if cooldown_type == "half_cosine_legacy":
            factor = factor / 2
    return jnp.where(length > 0, factor, 1)
