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
from hpfree_jax._settings import Setting
from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._optax import FACTORIES, LEARNING_RATE_HELP, SCHEDULE, WARMUP
from hpfree_jax.methods._schedules import make_schedule

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
    length: Length,
    learning_rate,
    schedule,
    warmup_fraction,
    *,
    factory,
    factor: Factor,
    **settings,
):
    shape = make_schedule(schedule, learning_rate, length.total_steps, warmup_fraction)
    return with_learning_rate(factory(shape, **settings), shape, factor)


def _build_schedule_free(length: Length, learning_rate, warmup_fraction):
    steps = length.total_steps
    shape = make_schedule("constant", learning_rate, steps, warmup_fraction)
    # None for 0: optax would divide by it.
    warmup_steps = round(warmup_fraction * steps) or None
    inner = contrib.schedule_free_adamw(learning_rate, warmup_steps)
    return with_learning_rate(inner, shape, _as_given)


def _mechanize(learning_rate, inner):
    return contrib.mechanize(FACTORIES[inner](learning_rate))


def _peer(
    factory, factor: Factor, reference: str, learning_rate: float = 1.0, **fields
) -> Method:
    return Method(
        functools.partial(_build, factory=factory, factor=factor),
        {"learning_rate": Setting(learning_rate, LEARNING_RATE_HELP), **SCHEDULE},
        "default",
        reference,
        **fields,
    )


PEERS: dict[str, Method] = {
    "prodigy": _peer(contrib.prodigy, _found_rate, "arXiv 2306.06101"),
    "dadapt_adamw": _peer(contrib.dadapt_adamw, _found_rate, "arXiv 2301.07733"),
    "dog": _peer(contrib.dog, _dog_rate, "arXiv 2302.12022"),
    "dowg": _peer(contrib.dowg, _dowg_rate, "arXiv 2305.16284"),
    "cocob": _peer(contrib.cocob, _no_rate, "arXiv 1705.07795"),
    "mechanize": _peer(
        _mechanize, _mechanic_scale, "arXiv 2306.00144", inners={"adam": {}, "sgd": {}}
    ),
    "momo": _peer(contrib.momo, _no_rate, "arXiv 2305.07583"),
    "momo_adam": _peer(contrib.momo_adam, _no_rate, "arXiv 2305.07583", 1e-2),
    "schedule_free_adamw": Method(
        _build_schedule_free,
        {
            "learning_rate": Setting(2.5e-3, LEARNING_RATE_HELP),
            "warmup_fraction": WARMUP,
        },
        "default",
        "arXiv 2405.15682",
        evaluation_params=averaged_params,
    ),
    # It has no default rate; 0.02 is its author's for hidden matrices.
    "muon": _peer(contrib.muon, _as_given, "optax.contrib.muon", 0.02),
}
