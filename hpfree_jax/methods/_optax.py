"""The methods of optax, to compare with, each with a schedule."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import optax

from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._schedules import make_schedule

FACTORIES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "adamw": optax.adamw,
    "nadamw": optax.nadamw,
}
# Their settings without a schedule.
SETTINGS: dict[str, Mapping[str, Any]] = {
    "sgd": {"learning_rate": 0.01, "momentum": 0.9},
    "adam": {"learning_rate": 1e-3},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-4},
    "nadamw": {"learning_rate": 1e-3, "weight_decay": 1e-4},
}
_SCHEDULE = {"schedule": "constant", "warmup_fraction": 0.0}


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
        {**SETTINGS[name], **_SCHEDULE},
        "default",
        f"optax.{name}",
    )
    for name, factory in FACTORIES.items()
}
