"""Calls that a type checker must accept; pyright reads this file, nothing runs it."""

from typing import assert_type

import jax
import jax.numpy as jnp
import optax

import hpfree_jax as hp
from hpfree_jax.initializers import architecture_aware
from hpfree_jax.training import TrainConfig

kernel = hp.Matrix(in_axes=0, out_axes=1)
convolution = hp.Matrix(in_axes=[2], out_axes=3, position_axes=(0, 1), stack_axes=())
bias = hp.Vector(leader="kernel", stack_axes=0)
assert_type(kernel.in_axes, tuple[int, ...])
assert_type(bias.stack_axes, tuple[int, ...])

params = {"kernel": jnp.ones((2, 3))}
hp.agd(norm="spectral")
hp.hypergradient(optax.sgd, {"learning_rate": 0.1}, 0.01, rule="multiplicative")
hp.scale_by_autowu(100, 10, decay_stat="loss", cooldown_type="half_cosine")
hp.autowu(optax.scale_by_adam(), 100, 10, warmup_unit="epoch", warmup_type="linear")
architecture_aware(2, fan="fan_out")


def initialise(arch: hp.Architecture) -> object:
    return hp.initialize(jax.random.key(0), params, arch, scheme="agd", fan="fan_out")


def configure(name: str) -> TrainConfig:
    return TrainConfig(model=name, dataset=name, method=name, schedule="cosine")
