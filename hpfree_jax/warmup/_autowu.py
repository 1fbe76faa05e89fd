"""AutoWU: a warm-up that ends where a Gaussian process sees the loss rise again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from hpfree_jax._base import (
    accumulator_dtype,
    is_inexact,
    scalar_like,
    total,
    transformation,
)
from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._checks import check_arguments, concrete, loss_of, warn_if_blind
from hpfree_jax.warmup._gaussian_process import GPState, Points
from hpfree_jax.warmup._schedule import (
    COOLDOWN,
    DECAY,
    WARMUP,
    cooldown_factor,
    make_plan,
    num_possible_tests,
    warmup_rate,
)
from hpfree_jax.warmup._vote import TestResult, run_test

_PLATEAU_PATIENCE = 5  # epochs without improvement before the rate is reduced
_PLATEAU_THRESHOLD = 1e-4  # relative improvement that counts


class AutoWUState(NamedTuple):
    """State of :func:`scale_by_autowu`; scalars are float32, or float64 under x64."""

    count: Int[Array, ""]  # int32, calls of update made
    learning_rate: Float[Array, ""]  # used by the last call; at first, the one to come
    next_learning_rate: Float[Array, ""]  # that the next call will use
    phase: Int[Array, ""]  # int32, 0 warm-up, 1 decay, 2 cooldown
    switch_step: Int[Array, ""]  # int32, calls made when warm-up ended; 0: not yet
    cooldown_step: Int[Array, ""]  # int32, calls made when cooldown began; 0: not yet
    cooldown_learning_rate: Float[Array, ""]  # the rate that cooldown started from
    losses: Float[Array, " warmup_steps"]  # of the warm-up; 0: left out or to come
    is_finite: Bool[Array, " warmup_steps"]  # whether a loss is recorded there
    num_losses: Int[Array, ""]  # int32, losses seen before cooldown, left out ones too
    num_non_finite: Int[Array, ""]  # int32, losses that were not finite
    num_skipped: Int[Array, ""]  # int32, calls whose updates were not finite
    votes: Int[Array, " patience"]  # int32, last tests: 1 past the minimum, 0, -1 none
    test_step: Int[Array, ""]  # int32, calls made at the last test; 0: none yet
    num_failed_tests: Int[Array, ""]  # int32, tests without a finite result
    probability: Float[Array, ""]  # that the minimum was passed, by the last test
    best_learning_rate: Float[Array, ""]  # warm-up's rate at the predicted minimum
    gp: GPState  # .parameters: raw_noise, mean, raw_outputscale, and Adam's state
    predicted_mean: Float[Array, " predict_points"]  # of the loss, by the last test
    predicted_std: Float[Array, " predict_points"]
    epoch_loss: Float[Array, ""]  # sum over this epoch of losses / steps_per_epoch
    is_epoch_finite: Bool[Array, ""]  # whether all of them were
    best_epoch_loss: Float[Array, ""]  # of the decay phase
    num_bad_epochs: Int[Array, ""]  # int32, epochs since then, or since a reduction


def scale_by_autowu(
    total_steps: int,
    steps_per_epoch: int,
    *,
    min_learning_rate: ArrayLike = 1e-5,
    max_learning_rate: ArrayLike = 1.0,
    max_warmup_fraction: ArrayLike = 0.5,
    warmup_unit: str = "step",
    warmup_type: str = "exponential",
    immediate_cooldown: bool = False,
    decay_stat: str | None = None,
    decay_factor: ArrayLike = 1.0,
    cooldown_fraction: ArrayLike = 0.2,
    cooldown_type: str = "cosine",
    lengthscale: ArrayLike = 0.2,
    num_tests: int = 5,
    confidence: ArrayLike = 0.95,
    patience: int = 3,
    fit_steps: int = 100,
    fit_points: int = 100,
    predict_points: int = 500,
    test_every: int | None = None,
    seed: int = 0,
    flip_sign: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales a direction by a warm-up, a peak rate and a decay that need no tuning.

    The rate rises from ``min_learning_rate`` until the loss has passed its minimum,
    jumps back to where that minimum was, and decays. In :math:`T` = ``total_steps``
    calls of ``update``, of which call :math:`t = 1, 2, \dots` uses :math:`\alpha_t`:

    - Warm-up: :math:`\alpha_{t+1} = \alpha_{min} (\alpha_{max} / \alpha_{min})^{t/N}`,
      :math:`N = \lfloor \text{max\_warmup\_fraction} \cdot T \rfloor`.
    - A test every ``test_every`` calls fits a Gaussian process :math:`f` to the losses
      up to now, at x = index / number of losses, by ``fit_steps`` steps of Adam on the
      marginal likelihood of at most ``fit_points`` of them. ``num_tests`` predictions,
      each from at most 500 losses, on a grid :math:`x_0 = 0, \dots, x_P = 1` vote for
      :math:`\max_i P(f(x_i) < f(1)) >` ``confidence`` (1e-4 is added to the variance of
      each difference); the test is positive if more than half of them do.
    - After ``patience`` positive tests in a row the rate is that of the warm-up at
      the mean of the grid points where the predictions are lowest, and decay begins.
      It begins at call :math:`N` with the rate as it is if no test ended the warm-up.
    - Cooldown takes the last ``cooldown_fraction`` of the calls, and the rate to 0.

    Args:
      total_steps: :math:`T`, calls of ``update`` (micro-batches of ``optax.MultiSteps``
        are none). The rate stays where it is after them.
      steps_per_epoch: calls of ``update`` in an epoch.
      min_learning_rate: the bracket's low end, in the unit that the direction asks for;
        the default is for Adam, Lamb and their like.
      max_learning_rate: its high end.
      max_warmup_fraction: the largest share of the calls that warm-up may take.
      warmup_unit: ``"step"``, or ``"epoch"`` for a rate that rises once an epoch.
      warmup_type: ``"exponential"``, or ``"linear"`` between the same ends.
      immediate_cooldown: cooldown follows at once, with no decay phase between.
      decay_stat: None multiplies the rate by ``decay_factor`` at the end of each epoch
        of the decay phase; ``"loss"`` does so when the mean loss of an epoch has not
        improved by 1e-4 of itself for more than 5 epochs.
      decay_factor: in (0, 1].
      cooldown_fraction: share of the calls, in [0, 1].
      cooldown_type: ``"cosine"``; ``"half_cosine"``, its second half, from the same
        start; ``"half_cosine_legacy"``, the same at half the rate, as published.
      lengthscale: of the kernel, in shares of the warm-up so far; at least 0.05.
      num_tests: predictions in a test. Up to 500 losses they are the same.
      confidence: in (0, 1).
      patience: tests in a row.
      fit_steps: of Adam, at the rate 0.01.
      fit_points: the largest number of losses that the fit uses.
      predict_points: of the grid.
      test_every: calls between tests; None: ``steps_per_epoch``.
      seed: of the draws of losses, the same on all replicas.
      flip_sign: multiplies by minus the rate, as ``optax.scale_by_learning_rate``.

    Returns:
      A transformation for the end of a chain, in place of
      ``optax.scale_by_learning_rate``, with the state :class:`AutoWUState`. ``update``
      needs ``value``: the training loss of the step, its mean over all devices.
      Updates have the dtype of ``params``. All of it is compiled into the step: one
      ``lax.cond`` makes a test; under ``vmap`` each call pays for one.

      A loss that is not finite is left out and counted in ``num_non_finite``. A test
      whose fit or predictions are not finite counts as negative and in
      ``num_failed_tests``, and leaves the process as it was. A test, or an end of the
      warm-up, that has seen no finite loss at all ends the warm-up at
      ``min_learning_rate``. An update that is not finite: all updates are zero, counted
      in ``num_skipped`` (an ``inner`` with memory needs ``optax.apply_if_finite``).

      Under ``optax.inject_hyperparams`` all numbers may be traced by ``update``;
      ``init`` must be called outside of ``jit``, or ``total_steps``,
      ``max_warmup_fraction``, ``patience`` and ``predict_points`` be in its
      ``static_args``. A traced ``lengthscale`` costs more features.

    Raises:
      TypeError, ValueError: in the factory if an argument is out of range; at the first
        trace if ``value`` is missing or no real scalar. Warns if too few tests fit into
        the warm-up for one to end it.

    References:
      Kim et al., `Automated Learning Rate Scheduler for Large-batch Training
      <https://arxiv.org/abs/2107.05855>`_, 2021, as its authors' code has it. Differs:
      ``decay_factor`` acts each epoch and not once; ``half_cosine`` does not halve the
      rate; ``decay_stat="loss"`` works after a switch, and for negative losses; the
      rate does not rise after the horizon; the rate of the mean of the predicted
      minima is taken, not the mean of their rates.

    >>> tx = scale_by_autowu(100, 4, min_learning_rate=1e-3, max_learning_rate=10.0)
    >>> w, state = jnp.array([1.0, 1.0]), tx.init(jnp.zeros(2))
    >>> loss = lambda w: jnp.sum(jnp.array([1.0, 0.1]) * w**2)  # diverges above 1
    >>> @jax.jit
    ... def step(w, state):
    ...     value, grads = jax.value_and_grad(loss)(w)
    ...     updates, state = tx.update(grads, state, w, value=value)
    ...     return optax.apply_updates(w, updates), state
    >>> for _ in range(100):
    ...     w, state = step(w, state)
    >>> print(int(state.phase), int(state.num_failed_tests))
    2 0
    """
    check_arguments(locals())
    plan: Any = make_plan(
        total_steps,
        steps_per_epoch,
        test_every,
        max_warmup_fraction,
        cooldown_fraction,
        warmup_unit,
    )
    warn_if_blind(plan, patience)

    def curve(fraction):
        low, high = (
            jnp.asarray(rate, accumulator_dtype())
            for rate in (min_learning_rate, max_learning_rate)
        )
        return warmup_rate(warmup_type, low, high, fraction)

    def init_fn(params):
        dtype = accumulator_dtype()
        # New buffers on the mesh of the parameters: all of the state can be donated,
        # and has the types that it will have after an update.
        zero = lambda: scalar_like(params, 0.0, dtype)
        none = lambda: scalar_like(params, 0, jnp.int32)
        vector = lambda size, value, like: jnp.full(size, value, like.dtype) + like
        has_warmup = jnp.asarray(plan.curve_length > 0)
        rate = lambda: jnp.where(has_warmup, curve(zero()), curve(1 + zero()))
        after_warmup = COOLDOWN if immediate_cooldown else DECAY
        num_losses = max(concrete("total_steps", plan.warmup_steps), 1)
        grid_size = concrete("predict_points", predict_points)
        return AutoWUState(
            count=none(),
            learning_rate=rate(),
            next_learning_rate=rate(),
            phase=jnp.where(has_warmup, WARMUP, after_warmup).astype(jnp.int32)
            + none(),
            switch_step=none(),
            cooldown_step=none(),
            cooldown_learning_rate=rate(),
            losses=vector(num_losses, 0, zero()),
            is_finite=vector(num_losses, 0, none()).astype(bool),
            num_losses=none(),
            num_non_finite=none(),
            num_skipped=none(),
            votes=vector(concrete("patience", patience), -1, none()),
            test_step=none(),
            num_failed_tests=none(),
            probability=zero(),
            best_learning_rate=rate(),
            gp=gaussian_process.init(zero()),
            predicted_mean=vector(grid_size, 0, zero()),
            predicted_std=vector(grid_size, 0, zero()),
            epoch_loss=zero(),
            is_epoch_finite=none() == 0,
            best_epoch_loss=zero() + jnp.finfo(dtype).max,
            num_bad_epochs=none(),
        )

    def test(state, is_due):
        """The test of this call, or a result that changes nothing."""
        old = TestResult(
            gp=state.gp,
            is_usable=is_due,
            vote=jnp.zeros_like(state.phase),
            probability=state.probability,
            position=jnp.zeros_like(state.probability),
            predicted_mean=state.predicted_mean,
            predicted_std=state.predicted_std,
        )

        def run():
            index = jnp.arange(state.losses.shape[0], dtype=state.losses.dtype)
            return run_test(
                Points(
                    index / state.num_losses.astype(index.dtype),
                    state.losses,
                    state.is_finite,
                ),
                old,
                seed,
                state.count,
                lengthscale=lengthscale,
                num_tests=num_tests,
                confidence=confidence,
                fit_steps=fit_steps,
                fit_points=fit_points,
            )

        if num_possible_tests(plan) == 0:
            return old  # nothing to compile
        return jax.lax.cond(is_due, run, lambda: old)

    def record(state, loss):
        """Counts the call, begins the cooldown if it is time, and keeps the loss."""
        count = state.count + 1
        begins_cooldown = (count >= plan.cooldown_start) & (state.phase != COOLDOWN)
        leaves_warmup = begins_cooldown & (state.phase == WARMUP)
        phase = jnp.where(begins_cooldown, COOLDOWN, state.phase)
        is_warmup = (phase == WARMUP) & (count < plan.warmup_steps)
        is_kept = is_warmup | (phase == DECAY)
        is_finite = jnp.isfinite(loss)
        loss = jnp.where(is_finite, loss, 0)
        index = jnp.where(is_warmup, state.num_losses, state.losses.shape[0])
        new_state = state._replace(
            count=count,
            learning_rate=state.next_learning_rate,
            phase=phase,
            switch_step=jnp.where(leaves_warmup, count, state.switch_step),
            cooldown_step=jnp.where(begins_cooldown, count, state.cooldown_step),
            cooldown_learning_rate=jnp.where(
                begins_cooldown, state.next_learning_rate, state.cooldown_learning_rate
            ),
            losses=state.losses.at[index].set(loss, mode="drop"),
            is_finite=state.is_finite.at[index].set(is_finite, mode="drop"),
            num_losses=state.num_losses + is_kept.astype(jnp.int32),
            num_non_finite=state.num_non_finite + (~is_finite).astype(jnp.int32),
            epoch_loss=state.epoch_loss + loss / plan.steps_per_epoch,
            is_epoch_finite=state.is_epoch_finite & is_finite,
        )
        is_epoch_end = is_kept & (new_state.num_losses % plan.steps_per_epoch == 0)
        return new_state, is_epoch_end

    def warm_up(state):
        """Moves along the warm-up's curve, or leaves it; nothing in other phases."""
        is_warmup = state.phase == WARMUP
        is_exhausted = is_warmup & (state.count >= plan.warmup_steps)
        is_test = is_warmup & ~is_exhausted & (state.num_losses % plan.test_every == 0)
        result = test(state, is_test)
        votes = jnp.concatenate([state.votes[1:], result.vote[None]])
        votes = jnp.where(is_test, votes, state.votes)
        is_detected = is_test & jnp.all(votes == 1)
        # Without a single finite loss, a higher rate cannot be what is missing.
        is_lost = (is_test | is_exhausted) & (state.num_losses > 0)
        is_lost &= ~jnp.any(state.is_finite)

        best = curve(result.position * progress(state.num_losses - 1))
        best = jnp.where(is_test & result.is_usable, best, state.best_learning_rate)
        rate = jnp.where(
            is_warmup & ~is_exhausted,
            curve(progress(state.num_losses)),
            state.next_learning_rate,
        )
        rate = jnp.where(is_detected, best, rate)
        rate = jnp.where(is_lost, curve(jnp.zeros_like(rate)), rate)

        is_over = is_exhausted | is_detected | is_lost
        begins_cooldown = is_over & immediate_cooldown
        after_warmup = COOLDOWN if immediate_cooldown else DECAY
        return state._replace(
            next_learning_rate=rate,
            phase=jnp.where(is_over, after_warmup, state.phase),
            switch_step=jnp.where(is_over, state.count, state.switch_step),
            cooldown_step=jnp.where(begins_cooldown, state.count, state.cooldown_step),
            cooldown_learning_rate=jnp.where(
                begins_cooldown, rate, state.cooldown_learning_rate
            ),
            votes=votes,
            test_step=jnp.where(is_test, state.count, state.test_step),
            num_failed_tests=state.num_failed_tests
            + (is_test & ~result.is_usable).astype(jnp.int32),
            probability=result.probability,
            best_learning_rate=best,
            gp=result.gp,
            predicted_mean=result.predicted_mean,
            predicted_std=result.predicted_std,
        )

    def progress(num_losses):
        """The share of the warm-up's curve behind us after so many losses."""
        if warmup_unit == "epoch":
            num_losses = num_losses // plan.steps_per_epoch
        dtype = accumulator_dtype()
        length = jnp.maximum(jnp.asarray(plan.curve_length, dtype), 1)
        return num_losses.astype(dtype) / length

    def decay(state, is_epoch_end):
        """Ends an epoch: reduces the rate in the decay phase, if it is time."""
        is_decay = is_epoch_end & (state.phase == DECAY)
        factor = jnp.asarray(decay_factor, accumulator_dtype())
        best, num_bad = state.best_epoch_loss, state.num_bad_epochs
        if decay_stat is None:
            is_reduced = is_decay
        else:
            # The epoch that ended in the switch was one of the warm-up.
            is_decay &= state.switch_step != state.count
            # A difference and no ratio: losses may be negative.
            margin = _PLATEAU_THRESHOLD * jnp.abs(best)
            is_better = state.is_epoch_finite & (state.epoch_loss < best - margin)
            num_bad = jnp.where(is_decay, jnp.where(is_better, 0, num_bad + 1), num_bad)
            best = jnp.where(is_decay & is_better, state.epoch_loss, best)
            is_reduced = is_decay & (num_bad > _PLATEAU_PATIENCE)
            num_bad = jnp.where(is_reduced, 0, num_bad)
        rate = state.next_learning_rate
        return state._replace(
            next_learning_rate=jnp.where(is_reduced, rate * factor, rate),
            epoch_loss=jnp.where(is_epoch_end, 0, state.epoch_loss),
            is_epoch_finite=is_epoch_end | state.is_epoch_finite,
            best_epoch_loss=best,
            num_bad_epochs=num_bad,
        )

    def cool_down(state):
        """Sets the rate of the cooldown; nothing in other phases."""
        step = state.count - state.cooldown_step + (state.cooldown_step > 0)
        length = plan.total_steps - state.cooldown_step
        rate = state.cooldown_learning_rate * cooldown_factor(
            cooldown_type, step.astype(accumulator_dtype()), length
        )
        is_cooldown = state.phase == COOLDOWN
        return state._replace(
            next_learning_rate=jnp.where(is_cooldown, rate, state.next_learning_rate)
        )

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        loss = loss_of(value)
        state, is_epoch_end = record(state, loss)
        state = cool_down(decay(warm_up(state), is_epoch_end))
        scale = -state.learning_rate if flip_sign else state.learning_rate
        new_updates, is_finite = _scale(updates, params, scale)
        num_skipped = state.num_skipped + (~is_finite).astype(jnp.int32)
        return new_updates, state._replace(num_skipped=num_skipped)

    return transformation(init_fn, update_fn)


def _scale(updates, params, scale):
    """The updates times the scale in the dtype of params; 0 if one is not finite."""
    params = updates if params is None else params
    dtype = accumulator_dtype()
    wide = lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, dtype))
    leaves = [leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)]
    # Complex sums are finite if both of their parts are.
    is_finite = jnp.isfinite(total([jnp.abs(jnp.sum(wide(leaf))) for leaf in leaves]))

    def scaled(update, param):
        if is_inexact(update):
            return jnp.where(is_finite, scale * wide(update), 0).astype(param.dtype)
        if jnp.issubdtype(param.dtype, jnp.number) or param.dtype == bool:
            return jnp.zeros(param.shape, param.dtype)
        return update  # a random key, which has no zero

    return jax.tree.map(scaled, updates, params), is_finite


class Posterior(NamedTuple):
    """What the Gaussian process of the last test says of the loss, for a plot."""

    step: Float[Array, " predict_points"]  # calls of update, from 0 to the test's
    mean: Float[Array, " predict_points"]  # of the noise-free loss
    std: Float[Array, " predict_points"]


def posterior(state: AutoWUState) -> Posterior:
    """Returns the prediction of the last test; after a switch, the one that made it.

    It is read from the state and not computed again. The losses that it was made from
    are ``state.losses[:state.test_step]``, where ``state.is_finite``. Before the first
    test (``state.test_step`` is 0) all is zero.

    >>> tx = scale_by_autowu(80, 2, test_every=2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for loss in (3.0, 2.0, 1.0, 2.0):
    ...     _, state = tx.update(jnp.zeros(1), state, value=loss)
    >>> step, mean, std = posterior(state)
    >>> print(step[0], step[-1], mean.shape)
    0.0 4.0 (500,)
    """
    mean = state.predicted_mean
    share = jnp.linspace(0, 1, mean.shape[-1], dtype=mean.dtype)
    step = state.test_step[..., None].astype(mean.dtype) * share
    return Posterior(step, mean, state.predicted_std)


def autowu(
    inner: optax.GradientTransformation,
    total_steps: int,
    steps_per_epoch: int,
    *,
    min_learning_rate: ArrayLike = 1e-5,
    max_learning_rate: ArrayLike = 1.0,
    max_warmup_fraction: ArrayLike = 0.5,
    warmup_unit: str = "step",
    warmup_type: str = "exponential",
    immediate_cooldown: bool = False,
    decay_stat: str | None = None,
    decay_factor: ArrayLike = 1.0,
    cooldown_fraction: ArrayLike = 0.2,
    cooldown_type: str = "cosine",
    lengthscale: ArrayLike = 0.2,
    num_tests: int = 5,
    confidence: ArrayLike = 0.95,
    patience: int = 3,
    fit_steps: int = 100,
    fit_points: int = 100,
    predict_points: int = 500,
    test_every: int | None = None,
    seed: int = 0,
    flip_sign: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """AutoWU behind any direction: ``optax.chain(inner, scale_by_autowu(...))``.

    ``inner`` gives the direction, without a learning rate: ``optax.scale_by_adam()``,
    ``optax.scale_by_lion()``, ``optax.trace(0.9)``, ``hp.scale_by_agd()``, or a chain
    that ends in ``optax.scale_by_trust_ratio()``. The bracket is in its unit. The other
    arguments are those of :func:`scale_by_autowu`.
    """
    options = dict(locals())
    del options["inner"]
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            "`inner` must be an optax transformation that gives the direction, such as "
            f"optax.scale_by_adam(); got {inner!r}."
        )
    return optax.chain(inner, scale_by_autowu(**options))
