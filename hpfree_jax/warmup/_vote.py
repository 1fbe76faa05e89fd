"""AutoWU's test: has the loss passed its minimum?"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._gaussian_process import GPState, Points

MAX_CONDITIONED = 500  # points that a prediction is conditioned on


class TestResult(NamedTuple):
    """What a test found out; scalars unless a shape is given."""

    gp: GPState  # after the fit
    is_usable: Bool[Array, ""]  # whether the fit and a prediction were finite
    vote: Int[Array, ""]  # int32, 1: past the minimum, 0: not
    probability: Float[Array, ""]  # of having passed it, mean over the predictions
    position: Float[Array, ""]  # x of the lowest predicted mean, mean over predictions
    predicted_mean: Float[Array, " grid"]  # of the last usable prediction
    predicted_std: Float[Array, " grid"]


def draw(seed: ArrayLike, count: Array, points: Points, num: Any) -> Points:
    """Draws points that are present, without replacement; all if there are no more.

    The seed and a number that each draw has for itself are the random key.

    A traced number selects among the first ``MAX_CONDITIONED`` drawn.
    """
    size = points.x.shape[0]
    num_drawn = min(size, MAX_CONDITIONED if isinstance(num, jax.Array) else num)
    if num_drawn < size:
        words = jnp.stack([jnp.asarray(seed, jnp.int32), count]).astype(jnp.uint32)
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        bits = jax.random.bits(key, (size,), jnp.uint32)
        order = jnp.where(points.is_present, bits | 1, 0)
        _, index = jax.lax.top_k(order, num_drawn)
        points = jax.tree.map(lambda leaf: leaf[index], points)
    if isinstance(num, jax.Array):
        rank = jnp.cumsum(points.is_present)
        points = points._replace(is_present=points.is_present & (rank <= num))
    return points


def run_test(
    points: Points,
    old: TestResult,
    seed: ArrayLike,
    count: Array,
    *,
    lengthscale: ArrayLike,
    num_tests: ArrayLike,
    confidence: ArrayLike,
    fit_steps: ArrayLike,
    fit_points: ArrayLike,
) -> TestResult:
    """Fits the process to the losses, predicts, and votes.

    Args:
      points: the losses, with x = index / (number of losses, absent ones too).
      old: the process as the test before left it, and what to return where nothing
        finite can be computed.
      seed: of the draws.
      count: calls of ``update``, which makes the draws of each test others.
      lengthscale: of the kernel, like the others as in ``scale_by_autowu``.
      num_tests: predictions.
      confidence: that a probability must exceed.
      fit_steps: of Adam.
      fit_points: at most so many points are fitted.
    """
    first_draw = count * (num_tests + 1)
    num_present = jnp.sum(points.is_present, dtype=jnp.int32)
    present = jnp.where(points.is_present, points.y, 0)
    mean = jnp.sum(present) / jnp.maximum(num_present, 1).astype(present.dtype)
    parameters = old.gp.parameters._replace(mean=mean)
    start = old.gp._replace(parameters=parameters)
    fitted, is_usable = gaussian_process.fit(
        start, draw(seed, first_draw, points, fit_points), lengthscale, fit_steps
    )
    parameters = fitted.parameters
    grid = jnp.linspace(0, 1, old.predicted_mean.shape[0], dtype=points.x.dtype)

    def predict(index, carry):
        num_usable, num_yes, probability, position, mean, std = carry
        drawn = draw(seed, first_draw + 1 + index, points, MAX_CONDITIONED)
        new = gaussian_process.predict(parameters, drawn, grid, lengthscale)
        new_std = jnp.sqrt(new.variance())
        new_probability = gaussian_process.past_minimum_probability(new)
        finite = jnp.isfinite(new_probability) & jnp.all(jnp.isfinite(new.mean))
        finite &= jnp.all(jnp.isfinite(new_std))
        is_yes = finite & (new_probability > confidence)
        return (
            num_usable + finite.astype(jnp.int32),
            num_yes + is_yes.astype(jnp.int32),
            probability + jnp.where(finite, new_probability, 0),
            position + jnp.where(finite, grid[jnp.argmin(new.mean)], 0),
            jnp.where(finite, new.mean, mean),
            jnp.where(finite, new_std, std),
        )

    # All points at once give the same prediction each time: one is enough.
    num_predictions = jnp.where(num_present <= MAX_CONDITIONED, 1, num_tests)
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
