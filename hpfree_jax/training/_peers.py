"""Learning-rate-free methods and others of :mod:`optax.contrib`, to compare with.

Each is used at its documented defaults. Two things are put right on the way: arrays
that several of them share with the parameters are copied, so that both can be donated,
and the rate that they find is kept where :func:`hpfree_jax.get_learning_rate` looks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree
from optax import contrib

from hpfree_jax._base import transformation
from hpfree_jax.training._optimizers import Method
from hpfree_jax.training._schedules import make_schedule

# From the states before and after an update to the factor that the method found itself,
# which multiplies the rate it was given.
Factor = Callable[[Any, Any], ArrayLike]


class PeerState(NamedTuple):
    """State of a method of :mod:`optax.contrib`."""

    count: Int[Array, ""]  # int32, updates made
    learning_rate: Float[Array, ""]  # float32, of the last update; NaN: it has none
    inner_state: PyTree  # the method's own


def with_learning_rate(
    inner: optax.GradientTransformation, schedule: optax.Schedule, factor: Factor
) -> optax.GradientTransformationExtraArgs:
    """Keeps the effective learning rate of a transformation in its state.

    Args:
      inner: the transformation, made with the schedule.
      schedule: from the count of updates to the rate that it was given.
      factor: from its states before and after an update to what it multiplies that
        rate by; NaN where there is no one number.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        copied = jax.tree.map(jnp.copy, inner.init(params))
        rate = jnp.full((), jnp.nan, jnp.float32)
        return PeerState(jnp.zeros((), jnp.int32), rate, copied)

    def update_fn(updates, state, params=None, **extra_args):
        updates, after = inner.update(updates, state.inner_state, params, **extra_args)
        rate = schedule(state.count) * factor(state.inner_state, after)
        rate = jnp.asarray(rate, jnp.float32)
        return updates, PeerState(state.count + 1, rate, after)

    return transformation(init_fn, update_fn)


def averaged_params(opt_state: PeerState, params: PyTree) -> PyTree:
    """The average that a schedule-free method is evaluated at."""
    return contrib.schedule_free_eval_params(opt_state.inner_state, params)


def _found_rate(before, after):
    del after  # its rate is that of the next update
    return before.estim_lr


def _dog_rate(before, after):
    del before
    return after[1].max_dist / jnp.sqrt(after[1].sum_sq_norm_grads + 1e-8)


def _dowg_rate(before, after):
    del before
    return after[1].estim_sq_dist / (jnp.sqrt(after[1].weighted_sq_norm_grads) + 1e-4)


def _mechanic_scale(before, after):
    del before
    return jnp.sum(after.s)


def _as_given(before, after):
    del before, after
    return 1.0


def _no_rate(before, after):
    del before, after
    return jnp.nan


def _build(
    total_steps,
    learning_rate,
    schedule,
    warmup_fraction,
    *,
    factory,
    factor,
    **settings,
):
    schedule = make_schedule(schedule, learning_rate, total_steps, warmup_fraction)
    return with_learning_rate(factory(schedule, **settings), schedule, factor)


def _build_schedule_free(total_steps, learning_rate, warmup_fraction):
    warmup_steps = round(warmup_fraction * total_steps)
    schedule = make_schedule("constant", learning_rate, total_steps, warmup_fraction)
    # Without warm-up steps it would be given None: optax divides by their number.
    inner = contrib.schedule_free_adamw(learning_rate, warmup_steps or None)
    return with_learning_rate(inner, schedule, _as_given)


def _mechanize(learning_rate):
    return contrib.mechanize(optax.adam(learning_rate))


_SCHEDULE = {"learning_rate": 1.0, "schedule": "constant", "warmup_fraction": 0.0}


def _peer(factory, factor: Factor, learning_rate: float, reference: str, **settings):
    return Method(
        functools.partial(_build, factory=factory, factor=factor),
        {**_SCHEDULE, "learning_rate": learning_rate, **settings},
        "default",
        reference,
    )


PEERS: dict[str, Method] = {
    "prodigy": _peer(contrib.prodigy, _found_rate, 1.0, "optax.contrib.prodigy"),
    "dadapt_adamw": _peer(
        contrib.dadapt_adamw, _found_rate, 1.0, "optax.contrib.dadapt_adamw"
    ),
    "dog": _peer(contrib.dog, _dog_rate, 1.0, "optax.contrib.dog"),
    "dowg": _peer(contrib.dowg, _dowg_rate, 1.0, "optax.contrib.dowg"),
    "cocob": _peer(contrib.cocob, _no_rate, 1.0, "optax.contrib.cocob"),
    "mechanize": _peer(_mechanize, _mechanic_scale, 1.0, "optax.contrib.mechanize"),
    "momo": _peer(contrib.momo, _no_rate, 1.0, "optax.contrib.momo"),
    "momo_adam": _peer(contrib.momo_adam, _no_rate, 1e-2, "optax.contrib.momo_adam"),
    "schedule_free_adamw": Method(
        _build_schedule_free,
        {"learning_rate": 2.5e-3, "warmup_fraction": 0.0},
        "default",
        "optax.contrib.schedule_free_adamw",
    ),
    "muon": _peer(contrib.muon, _as_given, 0.02, "optax.contrib.muon"),
}

# What a method is evaluated at, if not at the parameters.
EVALUATION_PARAMS = {"schedule_free_adamw": averaged_params}
