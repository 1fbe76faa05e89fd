"""The methods of optax, to compare with, each with a schedule."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import optax

from hpfree_jax._settings import Setting
from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._schedules import SCHEDULES, make_schedule

LEARNING_RATE_HELP = "Peak learning rate; the first one where it adapts."
MOMENTUM_HELP = "Momentum: decay rate of the average of gradients, in [0, 1)."
WEIGHT_DECAY = Setting(1e-4, "Decoupled weight decay.")

FACTORIES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "adamw": optax.adamw,
    "nadamw": optax.nadamw,
}
_RATE = Setting(1e-3, LEARNING_RATE_HELP)
# Their settings without a schedule.
SETTINGS: dict[str, Mapping[str, Any]] = {
    "sgd": {
        "learning_rate": Setting(0.01, LEARNING_RATE_HELP),
        "momentum": Setting(0.9, MOMENTUM_HELP),
    },
    "adam": {"learning_rate": _RATE},
    "adamw": {"learning_rate": _RATE, "weight_decay": WEIGHT_DECAY},
    "nadamw": {"learning_rate": _RATE, "weight_decay": WEIGHT_DECAY},
}
WARMUP = Setting(0.0, "Fraction of the steps that warm up linearly, in [0, 1).")
SCHEDULE = {
    "schedule": Setting(
        "constant", "Learning-rate schedule after the warm-up.", choices=(*SCHEDULES,)
    ),
    "warmup_fraction": WARMUP,
}


def _build(
    length: Length, learning_rate, schedule, warmup_fraction, *, factory, **settings
):
    """A factory of optax with a schedule whose rate is kept in the state."""
    inject = optax.inject_hyperparams(
        lambda learning_rate: factory(learning_rate, **settings)
    )
    return inject(
        make_schedule(schedule, learning_rate, length.total_steps, warmup_fraction)
    )


OPTAX_METHODS = {
    name: Method(
        functools.partial(_build, factory=factory),
        {**SETTINGS[name], **SCHEDULE},
        "default",
        f"optax.{name}",
    )
    for name, factory in FACTORIES.items()
}
