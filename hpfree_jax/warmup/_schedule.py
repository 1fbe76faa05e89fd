"""The curves of AutoWU's schedule, and the numbers that fix them."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hpfree_jax._base import accumulator_dtype

WARMUP, DECAY, COOLDOWN = 0, 1, 2

WarmupUnit = Literal["step", "epoch"]
WarmupType = Literal["exponential", "linear"]
DecayStat = Literal["loss"]
CooldownType = Literal["cosine", "half_cosine", "half_cosine_legacy"]


class Plan(NamedTuple):
    """The arguments of ``scale_by_autowu``, and when phases end.

    Numbers, or JAX scalars if injected; the words and booleans are never traced.
    """

    total_steps: Any
    steps_per_epoch: Any
    min_learning_rate: Any
    max_learning_rate: Any
    max_warmup_fraction: Any
    warmup_unit: WarmupUnit
    warmup_type: WarmupType
    immediate_cooldown: bool
    decay_stat: DecayStat | None
    decay_factor: Any
    cooldown_fraction: Any
    cooldown_type: CooldownType
    lengthscale: Any
    num_tests: Any
    confidence: Any
    patience: Any
    fit_steps: Any
    fit_points: Any
    predict_points: Any
    test_every: Any
    seed: Any
    flip_sign: bool
    warmup_steps: Any  # the call that leaves the warm-up, if no test has left it before
    curve_length: Any  # advances of the warm-up's curve from its low to its high end
    cooldown_start: Any  # the call that begins the cooldown, wherever the run is then

    @property
    def after_warmup(self) -> int:
        """The phase that follows the warm-up."""
        return COOLDOWN if self.immediate_cooldown else DECAY

    @property
    def num_possible_tests(self) -> int | None:
        """How many tests the warm-up can make; None if that is not known yet."""
        numbers = (self.warmup_steps, self.curve_length, self.test_every)
        if any(isinstance(number, jax.Array) for number in numbers):
            return None
        if self.curve_length == 0:
            return 0
        return max(self.warmup_steps - 1, 0) // self.test_every


def make_plan(**arguments: Any) -> Plan:
    """Computes the calls of ``update`` at which phases end."""
    total_steps = arguments["total_steps"]
    steps_per_epoch = arguments["steps_per_epoch"]
    fraction = arguments["max_warmup_fraction"]
    warmup_steps = _whole(fraction * total_steps, math.floor)
    warmup_epochs = _whole(fraction * (total_steps / steps_per_epoch), math.floor)
    if arguments["test_every"] is None:
        arguments["test_every"] = steps_per_epoch
    is_by_step = arguments["warmup_unit"] == "step"
    return Plan(
        **arguments,
        warmup_steps=warmup_steps,
        curve_length=warmup_steps if is_by_step else warmup_epochs,
        cooldown_start=_whole(
            (1 - arguments["cooldown_fraction"]) * total_steps, math.ceil
        ),
    )


def _whole(number, rounding):
    if isinstance(number, jax.Array):
        rounding = jnp.floor if rounding is math.floor else jnp.ceil
        return rounding(number).astype(jnp.int32)
    return int(rounding(number))


def warmup_rate(plan: Plan, fraction: Array) -> Float[Array, ""]:
    """The warm-up's curve, from its low end at the fraction 0 to its high end at 1."""
    dtype = accumulator_dtype()
    low = jnp.asarray(plan.min_learning_rate, dtype)
    high = jnp.asarray(plan.max_learning_rate, dtype)
    if plan.warmup_type == "exponential":
        return low * (high / low) ** fraction
    return low * (1 - fraction) + high * fraction


def warmup_fraction(plan: Plan, num_losses: Array) -> Float[Array, ""]:
    """The share of the warm-up's curve that is behind us after so many losses."""
    if plan.warmup_unit == "epoch":
        num_losses = num_losses // plan.steps_per_epoch
    dtype = accumulator_dtype()
    length = jnp.maximum(jnp.asarray(plan.curve_length, dtype), 1)
    return num_losses.astype(dtype) / length


def cooldown_factor(plan: Plan, step: Array, length: Array) -> Float[Array, ""]:
    r"""The share of the rate that is left after some of the cooldown's steps.

    With :math:`z = k / K` clipped to [0, 1]: ``cosine`` :math:`(1 + \cos \pi z) / 2`;
    ``half_cosine`` :math:`1 - \sin(\pi z / 2)`, the second half of a cosine scaled to
    start at 1; ``half_cosine_legacy`` half of that.
    """
    dtype = accumulator_dtype()
    num_steps = jnp.maximum(length, 1).astype(dtype)  # 0 steps: no factor
    share = jnp.clip(step.astype(dtype) / num_steps, 0, 1)
    if plan.cooldown_type == "cosine":
        factor = (1 + jnp.cos(jnp.pi * share)) / 2
    else:
        factor = 1 + jnp.cos(jnp.pi / 2 * (1 + share))
        if plan.cooldown_type == "half_cosine_legacy":
            factor = factor / 2
    return jnp.where(length > 0, factor, 1)
