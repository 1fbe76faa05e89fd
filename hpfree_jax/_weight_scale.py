"""The scale of random weights: He's rule, divided by the in-degree of a sum."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

Fan = Literal["fan_in", "fan_out"]


def standard_deviation(fan: float, in_degree: float, *, readout: bool = False) -> float:
    """The standard deviation of a weight by its fan and in-degree."""
    usual = math.sqrt(2 / max(fan, 1))
    return (usual**2 if readout else usual) / math.sqrt(in_degree)


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike, scale: float) -> Array:
    """Normal numbers drawn in at least float32, then cast."""
    precise = jnp.promote_types(dtype, jnp.float32)
    return (scale * jax.random.normal(key, shape, precise)).astype(dtype)
