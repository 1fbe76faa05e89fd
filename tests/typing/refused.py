"""Mistakes that a type checker must refuse: one on each line with a comment.

Pyright is run on this file with ``reportUnnecessaryTypeIgnoreComment``, so that a
mistake that it lets pass is an error.
"""

import optax

import hpfree_jax as hp
from hpfree_jax.initializers import architecture_aware
from hpfree_jax.training import TrainConfig

# pyright: reportUnnecessaryTypeIgnoreComment=true

hp.Matrix(in_axes="0", out_axes=1)  # pyright: ignore[reportArgumentType]
hp.Matrix(0, 1, stack_axis=2)  # pyright: ignore[reportCallIssue]
hp.Vector("kernel", stack_axes=None)  # pyright: ignore[reportArgumentType]
hp.scale_by_autowu(9, 3, decay_stat="los")  # pyright: ignore[reportArgumentType]
hp.scale_by_autowu(9, 3, warmup_unit="steps")  # pyright: ignore[reportArgumentType]
hp.scale_by_autowu(9, 3, warmup_type="log")  # pyright: ignore[reportArgumentType]
hp.scale_by_autowu(9, 3, cooldown_type="cos")  # pyright: ignore[reportArgumentType]
direction = optax.scale_by_adam()
hp.autowu(direction, 9, 3, decay_stat="los")  # pyright: ignore[reportArgumentType]
hp.autowu(direction, 9, 3, cooldown_type="cos")  # pyright: ignore[reportArgumentType]
architecture_aware(fan="fan_average")  # pyright: ignore[reportArgumentType]
TrainConfig(schedule="cosines")  # pyright: ignore[reportArgumentType]
TrainConfig(lerning_rate=0.1)  # pyright: ignore[reportCallIssue]


def initialise(key, params, arch: hp.Architecture):
    hp.initialize(key, params, arch, scheme="adg")  # pyright: ignore[reportArgumentType]
