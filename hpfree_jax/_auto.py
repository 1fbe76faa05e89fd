"""The recipe without settings: nothing to choose but how long to train."""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    check_in_interval,
    is_inexact,
    keep_if,
    scalar_like,
    stay_put,
    transformation,
)
from hpfree_jax._steepest_descent import (
    SteepestDescentState,
    scale_by_steepest_descent,
)
from hpfree_jax.architecture import Architecture

# Of the output of all layers together, what the first step changes.
RATE = 0.2
MOMENTUM = 0.9


class AutoState(NamedTuple):
    """State of :func:`auto`; scalars are float32, or float64 under x64."""

    count: Int[Array, ""]  # int32, steps taken: calls with finite gradients
    learning_rate: Float[Array, ""]  # of the last step; at first, of the one to come
    past_horizon: Bool[Array, ""]  # whether a step was taken after total_steps
    direction: SteepestDescentState
