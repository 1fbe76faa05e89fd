"""Checks of what AutoWU is given, each with its remedy."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hpfree_jax._base import accumulator_dtype, check_choice, check_in_interval
from hpfree_jax.warmup._gaussian_process import MIN_LENGTHSCALE
from hpfree_jax.warmup._schedule import (
    CooldownType,
    DecayStat,
    Plan,
    WarmupType,
    WarmupUnit,
)

COUNTS = ("total_steps", "steps_per_epoch", "test_every", "num_tests", "patience")
COUNTS += ("fit_steps", "fit_points", "predict_points")
SMALLEST = {"fit_points": 2, "predict_points": 2}
FRACTIONS = ("max_warmup_fraction", "cooldown_fraction")
CHOICES = {
    "warmup_unit": get_args(WarmupUnit),
    "warmup_type": get_args(WarmupType),
    "cooldown_type": get_args(CooldownType),
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises unless each argument of ``scale_by_autowu`` is in range."""
    for name in COUNTS:
        if name != "test_every" or arguments[name] is not None:
            _check_count(name, arguments[name], SMALLEST.get(name, 1))
    for name in ("steps_per_epoch", "test_every"):
        _check_at_most(name, arguments[name], "total_steps", arguments["total_steps"])
    for name in FRACTIONS:
        _check_share(name, arguments[name])
    for name, choices in CHOICES.items():
        check_choice(name, arguments[name], choices)
    for name in ("min_learning_rate", "max_learning_rate"):
        check_in_interval(name, arguments[name], 0, math.inf)
    low, high = arguments["min_learning_rate"], arguments["max_learning_rate"]
    _check_at_most("min_learning_rate", low, "max_learning_rate", high)
    check_in_interval("confidence", arguments["confidence"], 0, 1)
    check_in_interval(
        "lengthscale",
        arguments["lengthscale"],
        MIN_LENGTHSCALE,
        math.inf,
        include_low=True,
    )
    decay_factor = arguments["decay_factor"]
    if _is_number(decay_factor) and not 0 < float(decay_factor) <= 1:
        raise ValueError(f"`decay_factor` must lie in (0, 1], got {decay_factor}.")
    if arguments["decay_stat"] not in (None, *get_args(DecayStat)):
        raise ValueError(
            "`decay_stat` must be None (the rate is multiplied by `decay_factor` every "
            'epoch) or "loss" (when the loss stops falling), got '
            f"{arguments['decay_stat']!r}."
        )
    for name in ("immediate_cooldown", "flip_sign"):
        if not isinstance(arguments[name], bool):
            raise TypeError(f"`{name}` must be True or False, got {arguments[name]!r}.")
    seed = arguments["seed"]
    if not _is_integer(seed):
        raise TypeError(f"`seed` must be an integer, got {seed!r}.")


def warn_if_blind(plan: Plan) -> None:
    """Warns if too few tests fit into the warm-up for one to end it."""
    num_tests, patience = plan.num_possible_tests, plan.patience
    if num_tests is None or isinstance(patience, jax.Array) or plan.curve_length == 0:
        return  # not known, or no warm-up was asked for
    if num_tests <= patience:
        warnings.warn(
            f"AutoWU can make {num_tests} tests in its warm-up of at most "
            f"{plan.warmup_steps} steps, one every {plan.test_every}, and needs "
            f"`patience` = {patience} positive ones in a row and one more: the warm-up "
            "can only end by exhaustion. Set a shorter `test_every` (in steps).",
            stacklevel=3,
        )


def concrete(name: str, value: Any) -> int:
    """The number as a Python int, which the shape of the state depends on."""
    try:
        return int(value)
    except jax.errors.ConcretizationTypeError:
        raise ValueError(
            f"`{name}` sets the shape of AutoWU's state and is traced here. Under "
            "optax.inject_hyperparams, call `init` outside of jit and eval_shape, or "
            f"name it: inject_hyperparams(factory, static_args=({name!r}, ...))."
        ) from None


def loss_of(value: Any) -> Float[Array, ""]:
    """Returns the loss that ``update`` was given; raises unless it is a scalar."""
    call = "tx.update(grads, state, params, value=loss)"
    if value is None:
        raise TypeError(
            "AutoWU needs `value`, the training loss of this step (its mean over all "
            f"devices): call {call}."
        )
    if jnp.shape(value) != () or not jnp.issubdtype(
        jnp.result_type(value), jnp.floating
    ):
        raise ValueError(
            "AutoWU needs `value`, the training loss of this step, as a real scalar; "
            f"got {jax.typeof(jnp.asarray(value))}. Call {call}."
        )
    return jnp.asarray(value, accumulator_dtype())


def _is_number(value):
    return not isinstance(value, jax.Array)


def _is_integer(value):
    if isinstance(value, jax.Array | np.ndarray | np.integer):
        return value.shape == () and jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value, int) and not isinstance(value, bool)


def _check_count(name, value, smallest):
    if not _is_integer(value):
        raise TypeError(f"`{name}` must be an integer, got {value!r}.")
    if _is_number(value) and value < smallest:
        raise ValueError(f"`{name}` must be at least {smallest}, got {value}.")


def _check_share(name, value):
    if _is_number(value) and not 0 <= float(value) <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")


def _check_at_most(name, value, other_name, other):
    numbers = _is_number(value) and _is_number(other) and value is not None
    if numbers and value > other:
        raise ValueError(
            f"`{name}` must not exceed `{other_name}`, {other}; got {value}."
        )
