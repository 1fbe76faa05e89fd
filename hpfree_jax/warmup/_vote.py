"""AutoWU's test: has the loss passed its minimum?"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._gaussian_process import GPState, Points
from hpfree_jax.warmup._schedule import Plan

MAX_CONDITIONED = 500  # points that a prediction is conditioned on
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class TestResult(NamedTuple):
    """What a test found out; scalars unless a shape is given."""

    gp: GPState  # after the fit
    is_usable: Bool[Array, ""]  # whether the fit and a prediction were finite
    vote: Int[Array, ""]  # int32, 1: past the minimum, 0: not
    probability: Float[Array, ""]  # of having passed it, mean over the predictions
    position: Float[Array, ""]  # x of the lowest predicted mean, mean over predictions
    predicted_mean: Float[Array, " grid"]  # of the last usable prediction
    predicted_std: Float[Array, " grid"]


def draw(
    losses: Float[Array, " warmup_steps"],
    is_finite: Bool[Array, " warmup_steps"],
    num_losses: Array,
    num: Any,
    random: Float[Array, " parts"],
) -> Points:
    """Draws losses without replacement, one from each of ``num`` equal parts.

    All of them if there are no more. Parts and not a permutation: nothing is sorted,
    however long the warm-up. A draw that falls on a loss that is not finite is absent.

    Args:
      losses: of the warm-up; loss i lies at x = i / ``num_losses``.
      is_finite: which of them take part.
      num_losses: those up to now.
      num: of draws; a JAX scalar if injected, which ``MAX_CONDITIONED`` limits.
      random: where to draw in each part, uniform in [0, 1).
    """
    size = _num_drawn(losses, num)
    part = jnp.arange(size, dtype=losses.dtype)
    width = jnp.maximum(num_losses / num, 1).astype(losses.dtype)
    index = jnp.floor(part * width + random[:size] * (width - 1)).astype(jnp.int32)
    is_present = is_finite.at[index].get(mode="fill", fill_value=False)
    return Points(
        x=index / num_losses.astype(losses.dtype),
        y=losses.at[index].get(mode="fill", fill_value=0),
        is_present=is_present & (part < num),
    )


def _num_drawn(losses, num):
    return min(losses.shape[0], MAX_CONDITIONED if isinstance(num, jax.Array) else num)


def _make_draws(losses, is_finite, num_losses, count, plan):
    """Returns ``draw_points(index, num)``, different points for each index."""
    words = jnp.stack([jnp.asarray(plan.seed, jnp.int32), count]).astype(jnp.uint32)
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    size = max(_num_drawn(losses, num) for num in (plan.fit_points, MAX_CONDITIONED))
    random = jax.random.uniform(key, (size,), losses.dtype)

    def draw_points(index, num):
        # Random numbers once, and for each draw another shift of them.
        shifted = (random + index * _GOLDEN_RATIO) % 1
        return draw(losses, is_finite, num_losses, num, shifted)

    return draw_points


def run_test(
    losses: Float[Array, " warmup_steps"],
    is_finite: Bool[Array, " warmup_steps"],
    num_losses: Array,
    count: Array,
    old: TestResult,
    plan: Plan,
) -> TestResult:
    """Fits the process to the losses, predicts, and votes.

    Args:
      losses: of the warm-up; loss i lies at x = i / ``num_losses``.
      is_finite: which of them take part.
      num_losses: those up to now, absent ones too.
      count: calls of ``update``, which makes the draws of each test others.
      old: the process as the test before left it, and what to return where nothing
        finite can be computed.
      plan: the arguments of ``scale_by_autowu``.
    """
    draw_points = _make_draws(losses, is_finite, num_losses, count, plan)
    num_finite = jnp.sum(is_finite, dtype=jnp.int32)
    mean = jnp.sum(losses) / jnp.maximum(num_finite, 1).astype(losses.dtype)
    start = old.gp._replace(parameters=old.gp.parameters._replace(mean=mean))
    fitted, is_usable = gaussian_process.fit(
        start, draw_points(0, plan.fit_points), plan.lengthscale, plan.fit_steps
    )
    grid = jnp.linspace(0, 1, old.predicted_mean.shape[0], dtype=losses.dtype)

    def predict(index, carry):
        num_usable, num_yes, probability, position, mean, std = carry
        new = gaussian_process.predict(
            fitted.parameters,
            draw_points(1 + index, MAX_CONDITIONED),
            grid,
            plan.lengthscale,
        )
        new_std = jnp.sqrt(new.variance())
        new_probability = gaussian_process.past_minimum_probability(new)
        finite = jnp.isfinite(new_probability + jnp.sum(new.mean + new_std))
        is_yes = finite & (new_probability > plan.confidence)
        return (
            num_usable + finite.astype(jnp.int32),
            num_yes + is_yes.astype(jnp.int32),
            probability + jnp.where(finite, new_probability, 0),
            position + jnp.where(finite, grid[jnp.argmin(new.mean)], 0),
            jnp.where(finite, new.mean, mean),
            jnp.where(finite, new_std, std),
        )

    # All points at once give the same prediction each time: one is enough.
    num_predictions = jnp.where(num_losses <= MAX_CONDITIONED, 1, plan.num_tests)
    zero, none = jnp.zeros_like(old.probability), jnp.zeros_like(old.vote)
    num_usable, num_yes, probability, position, mean, std = jax.lax.fori_loop(
        0,
        num_predictions,
        predict,
        (none, none, zero, zero, old.predicted_mean, old.predicted_std),
    )
    is_usable &= num_usable > 0
    divisor = jnp.maximum(num_usable, 1)
    new = TestResult(
        gp=fitted,
        is_usable=is_usable,
        vote=(2 * num_yes > num_predictions).astype(jnp.int32),
        probability=probability / divisor,
        position=position / divisor,
        predicted_mean=mean,
        predicted_std=std,
    )
    keep = lambda new, old: jnp.where(is_usable, new, old)
    return jax.tree.map(keep, new, old)._replace(is_usable=is_usable)
