"""The state of AutoWU."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hpfree_jax._base import accumulator_dtype, scalar_like
from hpfree_jax.warmup import _gaussian_process as gaussian_process
from hpfree_jax.warmup._checks import concrete
from hpfree_jax.warmup._gaussian_process import GPState
from hpfree_jax.warmup._schedule import WARMUP, Plan, warmup_rate


class AutoWUState(NamedTuple):
    """State of ``scale_by_autowu``; scalars are float32, or float64 under x64."""

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
    # With decay_stat="loss":
    epoch_loss: Float[Array, ""]  # sum over this epoch of losses / steps_per_epoch
    is_epoch_finite: Bool[Array, ""]  # whether all of them were
    best_epoch_loss: Float[Array, ""]  # of the decay phase
    num_bad_epochs: Int[Array, ""]  # int32, epochs since then, or since a reduction


def init_state(params: PyTree, plan: Plan) -> AutoWUState:
    """The state before the first call of ``update``.

    New buffers on the mesh of the parameters: all of the state can be donated, and has
    the types that it will have after an update.
    """
    dtype = accumulator_dtype()
    zero = lambda: scalar_like(params, 0.0, dtype)
    none = lambda: scalar_like(params, 0, jnp.int32)
    vector = lambda size, value, like: jnp.full(size, value, like.dtype) + like
    has_warmup = jnp.asarray(plan.curve_length > 0)
    rate = lambda: warmup_rate(plan, jnp.where(has_warmup, zero(), 1 + zero()))
    phase = jnp.where(has_warmup, WARMUP, plan.after_warmup).astype(jnp.int32)
    num_losses = max(concrete("total_steps", plan.warmup_steps), 1)
    grid_size = concrete("predict_points", plan.predict_points)
    return AutoWUState(
        count=none(),
        learning_rate=rate(),
        next_learning_rate=rate(),
        phase=phase + none(),
        switch_step=none(),
        cooldown_step=none(),
        cooldown_learning_rate=rate(),
        losses=vector(num_losses, 0, zero()),
        is_finite=vector(num_losses, 0, none()).astype(bool),
        num_losses=none(),
        num_non_finite=none(),
        num_skipped=none(),
        votes=vector(concrete("patience", plan.patience), -1, none()),
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

    >>> import jax, hpfree_jax as hp
    >>> tx = hp.scale_by_autowu(80, 2, test_every=2)
    >>> state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    >>> for loss in (3.0, 2.0, 1.0, 2.0):
    ...     _, state = update(jnp.zeros(1), state, value=loss)
    >>> step, mean, std = posterior(state)
    >>> print(step[0], step[-1], mean.shape)
    0.0 4.0 (500,)
    """
    mean = state.predicted_mean
    share = jnp.linspace(0, 1, mean.shape[-1], dtype=mean.dtype)
    step = state.test_step[..., None].astype(mean.dtype) * share
    return Posterior(step, mean, state.predicted_std)
