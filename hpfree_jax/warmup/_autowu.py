"""AutoWU: a warm-up that ends where a Gaussian process sees the loss rise again."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from hpfree_jax._base import (
    all_finite,
    finish,
    is_inexact,
    scale_into_range,
    transformation,
    widen,
)
from hpfree_jax.warmup._checks import check_arguments, loss_of, warn_if_blind
from hpfree_jax.warmup._phases import advance
from hpfree_jax.warmup._schedule import (
    CooldownType,
    DecayStat,
    WarmupType,
    WarmupUnit,
    make_plan,
)
from hpfree_jax.warmup._state import init_state


def scale_by_autowu(
    total_steps: int,
    steps_per_epoch: int,
    *,
    min_learning_rate: ArrayLike = 1e-5,
    max_learning_rate: ArrayLike = 1.0,
    max_warmup_fraction: ArrayLike = 0.5,
    warmup_unit: WarmupUnit = "step",
    warmup_type: WarmupType = "exponential",
    immediate_cooldown: bool = False,
    decay_stat: DecayStat | None = None,
    decay_factor: ArrayLike = 1.0,
    cooldown_fraction: ArrayLike = 0.2,
    cooldown_type: CooldownType = "cosine",
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
      fit_points: the largest number of losses that the fit uses; if there are more,
        it and each prediction draw one from each of as many equal parts.
      predict_points: of the grid.
      test_every: calls between tests; None: ``steps_per_epoch``, which is too seldom
        in a training of few epochs: take a hundredth of ``total_steps`` then.
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
    arguments = dict(locals())
    check_arguments(arguments)
    plan = make_plan(**arguments)
    warn_if_blind(plan)

    def init_fn(params):
        return init_state(params, plan)

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        state = advance(state, loss_of(value), plan)
        scale = -state.learning_rate if flip_sign else state.learning_rate
        leaves = [leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)]
        is_finite = all_finite(leaves)
        like = updates if params is None else params
        scaled = jax.tree.map(
            lambda update, param: (
                scale_into_range(scale, widen(update), param.dtype)
                if is_inexact(update) and is_inexact(param)
                else None
            ),
            updates,
            like,
        )
        new_updates = finish(scaled, updates, params, is_finite)
        num_skipped = state.num_skipped + (~is_finite).astype(jnp.int32)
        return new_updates, state._replace(num_skipped=num_skipped)

    return transformation(init_fn, update_fn)


def autowu(
    inner: optax.GradientTransformation,
    total_steps: int,
    steps_per_epoch: int,
    *,
    min_learning_rate: ArrayLike = 1e-5,
    max_learning_rate: ArrayLike = 1.0,
    max_warmup_fraction: ArrayLike = 0.5,
    warmup_unit: WarmupUnit = "step",
    warmup_type: WarmupType = "exponential",
    immediate_cooldown: bool = False,
    decay_stat: DecayStat | None = None,
    decay_factor: ArrayLike = 1.0,
    cooldown_fraction: ArrayLike = 0.2,
    cooldown_type: CooldownType = "cosine",
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
