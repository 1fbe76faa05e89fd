"""How a loss moves AutoWU's state: its phases, and what happens between them.

Most calls record a loss and follow a curve. Whatever else there is to do stands behind
one ``lax.cond``: a few dozen scalar operations, each of which costs a kernel launch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hpfree_jax._base import accumulator_dtype
from hpfree_jax.warmup._schedule import (
    COOLDOWN,
    DECAY,
    WARMUP,
    Plan,
    cooldown_factor,
    warmup_fraction,
    warmup_rate,
)
from hpfree_jax.warmup._state import AutoWUState
from hpfree_jax.warmup._vote import TestResult, run_test

_PLATEAU_PATIENCE = 5  # epochs without improvement before the rate is reduced
_PLATEAU_THRESHOLD = 1e-4  # relative improvement that counts

# What a call sets in any case. It is read behind the `cond`, and not returned by it:
# the losses would be copied.
_FREQUENT = ("count", "learning_rate", "losses", "is_finite")
_FREQUENT += ("num_losses", "num_non_finite", "num_skipped")


def advance(state: AutoWUState, loss: Float[Array, ""], plan: Plan) -> AutoWUState:
    """The state after one more call of ``update``, which saw this loss."""
    state, is_kept = _record(state, loss, plan)
    is_boundary = _ends_epoch(state, plan) | _is_test_due(state, plan)
    rare = lambda state: state._replace(**dict.fromkeys(_FREQUENT))
    frequent = {name: getattr(state, name) for name in _FREQUENT}
    changed = jax.lax.cond(
        jnp.where(is_kept, is_boundary, state.phase != COOLDOWN),
        lambda: rare(_change(state, is_kept, plan)),
        lambda: rare(state),
    )
    state = changed._replace(**frequent)
    return state._replace(next_learning_rate=_next_rate(state, plan))


def _record(
    state: AutoWUState, loss: Float[Array, ""], plan: Plan
) -> tuple[AutoWUState, Bool[Array, ""]]:
    """Counts the call, and keeps its loss unless a phase ends with it."""
    count = state.count + 1
    is_warmup = state.phase == WARMUP
    is_kept = (state.phase == DECAY) | (is_warmup & (count < plan.warmup_steps))
    is_kept &= count < plan.cooldown_start
    is_finite = jnp.isfinite(loss)
    loss = jnp.where(is_finite, loss, 0)
    # Beyond the end, where nothing is written, if the loss is not kept.
    index = jnp.where(is_kept & is_warmup, state.num_losses, state.losses.shape[0])
    new_state = state._replace(
        count=count,
        learning_rate=state.next_learning_rate,
        losses=state.losses.at[index].set(loss, mode="drop"),
        is_finite=state.is_finite.at[index].set(is_finite, mode="drop"),
        num_losses=state.num_losses + is_kept.astype(jnp.int32),
        num_non_finite=state.num_non_finite + (~is_finite).astype(jnp.int32),
    )
    if plan.decay_stat == "loss":
        new_state = new_state._replace(
            epoch_loss=state.epoch_loss + loss / plan.steps_per_epoch,
            is_epoch_finite=state.is_epoch_finite & is_finite,
        )
    return new_state, is_kept


def _ends_epoch(state, plan):
    return state.num_losses % plan.steps_per_epoch == 0


def _is_test_due(state, plan):
    return (state.phase == WARMUP) & (state.num_losses % plan.test_every == 0)


def _change(state: AutoWUState, is_kept: Bool[Array, ""], plan: Plan) -> AutoWUState:
    """What a call does where a phase, an epoch or a time between tests ends."""
    is_over = ~is_kept & (state.count >= plan.cooldown_start)
    state = _begin_cooldown(state, is_over)
    state = _test_or_exhaust(state, is_kept, plan)
    return _decay(state, is_kept & _ends_epoch(state, plan), plan)


def _begin_cooldown(state, is_due):
    """Begins the cooldown with the rate as it is, from whatever phase."""
    leaves_warmup = is_due & (state.phase == WARMUP)
    set_if_due = lambda new, old: jnp.where(is_due, new, old)
    return state._replace(
        phase=set_if_due(COOLDOWN, state.phase),
        switch_step=jnp.where(leaves_warmup, state.count, state.switch_step),
        cooldown_step=set_if_due(state.count, state.cooldown_step),
        cooldown_learning_rate=set_if_due(
            state.next_learning_rate, state.cooldown_learning_rate
        ),
    )


def _test_or_exhaust(state, is_kept, plan):
    """Ends the warm-up if a test says so, or its time is over."""
    is_test = is_kept & _is_test_due(state, plan)
    is_exhausted = ~is_kept & (state.phase == WARMUP)
    result = _test(state, is_test, plan)
    votes = jnp.concatenate([state.votes[1:], result.vote[None]])
    votes = jnp.where(is_test, votes, state.votes)
    is_detected = is_test & jnp.all(votes == 1)
    # Without a single finite loss, a higher rate cannot be what is missing.
    is_lost = (is_test | is_exhausted) & (state.num_non_finite == state.count)

    last = warmup_fraction(plan, state.num_losses - 1)
    best = warmup_rate(plan, result.position * last)
    best = jnp.where(is_test & result.is_usable, best, state.best_learning_rate)
    rate = jnp.where(is_detected, best, state.next_learning_rate)
    rate = jnp.where(is_lost, warmup_rate(plan, jnp.zeros_like(rate)), rate)

    is_over = is_exhausted | is_detected | is_lost
    state = state._replace(
        next_learning_rate=rate,
        phase=jnp.where(is_over, DECAY, state.phase),
        switch_step=jnp.where(is_over, state.count, state.switch_step),
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
    return _begin_cooldown(state, is_over) if plan.immediate_cooldown else state


def _test(state, is_due, plan):
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
    if plan.num_possible_tests == 0:
        return old  # nothing to compile

    def run():
        # The Gaussian process promotes integers and broadcasts ranks, as tinygp does,
        # and must compile also where a program forbids that elsewhere.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return run_test(
                state.losses, state.is_finite, state.num_losses, state.count, old, plan
            )

    return jax.lax.cond(is_due, run, lambda: old)


def _decay(state, is_epoch_end, plan):
    """Ends an epoch: reduces the rate in the decay phase, if it is time."""
    is_decay = is_epoch_end & (state.phase == DECAY)
    factor = jnp.asarray(plan.decay_factor, accumulator_dtype())
    rate = state.next_learning_rate
    if plan.decay_stat is None:
        rate = jnp.where(is_decay, rate * factor, rate)
        return state._replace(next_learning_rate=rate)
    best, num_bad = state.best_epoch_loss, state.num_bad_epochs
    # The epoch that ended in the switch was one of the warm-up.
    is_decay &= state.switch_step != state.count
    # A difference and no ratio: losses may be negative.
    margin = _PLATEAU_THRESHOLD * jnp.abs(best)
    is_better = state.is_epoch_finite & (state.epoch_loss < best - margin)
    num_bad = jnp.where(is_decay, jnp.where(is_better, 0, num_bad + 1), num_bad)
    is_reduced = is_decay & (num_bad > _PLATEAU_PATIENCE)
    return state._replace(
        next_learning_rate=jnp.where(is_reduced, rate * factor, rate),
        epoch_loss=jnp.where(is_epoch_end, 0, state.epoch_loss),
        is_epoch_finite=is_epoch_end | state.is_epoch_finite,
        best_epoch_loss=jnp.where(is_decay & is_better, state.epoch_loss, best),
        num_bad_epochs=jnp.where(is_reduced, 0, num_bad),
    )


def _next_rate(state, plan):
    """Moves along the curve of the phase; the decay phase has none."""
    is_cooldown = state.cooldown_step > 0
    step = state.count - state.cooldown_step + is_cooldown.astype(jnp.int32)
    length = plan.total_steps - state.cooldown_step
    cooldown = state.cooldown_learning_rate * cooldown_factor(plan, step, length)
    warmup = warmup_rate(plan, warmup_fraction(plan, state.num_losses))
    rate = jnp.where(state.phase == COOLDOWN, cooldown, state.next_learning_rate)
    return jnp.where(state.phase == WARMUP, warmup, rate)
