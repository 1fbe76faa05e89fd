"""The table of training methods: ours, and optax's to compare with."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

import hpfree_jax as hp
from hpfree_jax._user_input import UserError, choose_settings, look_up
from hpfree_jax.training._schedules import make_schedule


class Method(NamedTuple):
    """One row of the table.

    ``build(total_steps, **settings)`` returns an optax transformation, in whose state
    :func:`hpfree_jax.get_learning_rate` finds a rate. It may use the extra argument
    ``value``, the loss, which the training step passes.
    """

    build: Callable[..., optax.GradientTransformation]
    settings: Mapping[str, Any]  # what can be chosen, and the defaults
    init: str  # the initialisation that belongs to the method, a key of INITS
    reference: str  # one line for the help text
    uses_layout: bool = False  # whether build takes the model's layout too


_SCHEDULE = {"learning_rate": 1e-3, "schedule": "constant", "warmup_fraction": 0.0}


def _scheduled(factory: Callable[..., optax.GradientTransformation]):
    """Gives a factory of optax a schedule whose rate is kept in the state."""

    def build(total_steps, learning_rate, schedule, warmup_fraction, **settings):
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise UserError(f"`learning_rate` must be above 0, got {learning_rate}")
        inject = optax.inject_hyperparams(
            lambda learning_rate: factory(learning_rate, **settings)
        )
        return inject(
            make_schedule(schedule, learning_rate, total_steps, warmup_fraction)
        )

    return build


def _build_agd(total_steps, gain, momentum, layout):
    del total_steps  # AGD has no horizon
    return hp.agd(gain, layout, momentum=momentum)


METHODS: dict[str, Method] = {
    "agd": Method(
        _build_agd, {"gain": 1.0, "momentum": 0.0}, "agd", "arXiv 2304.05187", True
    ),
    "sgd": Method(
        _scheduled(optax.sgd),
        {**_SCHEDULE, "learning_rate": 0.1, "momentum": 0.9},
        "default",
        "optax.sgd",
    ),
    "adam": Method(_scheduled(optax.adam), _SCHEDULE, "default", "optax.adam"),
    "adamw": Method(
        _scheduled(optax.adamw),
        {**_SCHEDULE, "weight_decay": 1e-4},
        "default",
        "optax.adamw",
    ),
    "nadamw": Method(
        _scheduled(optax.nadamw),
        {**_SCHEDULE, "weight_decay": 1e-4},
        "default",
        "optax.nadamw",
    ),
}


def build_optimizer(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    total_steps: int,
    layout: hp.Layout | None = None,
    learning_rate_factor: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer of the table.

    Args:
      name: a key of :data:`METHODS`.
      settings: the method's own settings, such as ``gain``; None values are defaults.
      total_steps: updates in the whole training, which schedules need.
      layout: of the parameters, for AGD; None infers it from their names.
      learning_rate_factor: what the learning rate is multiplied by, if there is one.

    Raises:
      UserError: if there is no such method, if it does not take a setting (AGD has no
        learning rate to set), or if a value is out of range.

    >>> build_optimizer("agd", {"learning_rate": 0.1}, total_steps=10)
    Traceback (most recent call last):
    hpfree_jax._user_input.UserError: `learning_rate` 0.1 does not apply to method ...
    """
    method = look_up("method", name, METHODS)
    chosen = choose_settings(f"method {name}", settings or {}, method.settings)
    for key in ("momentum", "weight_decay"):
        value = chosen.get(key, 0.0)
        if not 0 <= value < (1 if key == "momentum" else math.inf):
            raise UserError(f"`{key}` {value} is out of range; take 0 to turn it off")
    if "learning_rate" in chosen:
        chosen["learning_rate"] *= learning_rate_factor
    if method.uses_layout:
        chosen["layout"] = layout
    try:
        return optax.with_extra_args_support(method.build(total_steps, **chosen))
    except ValueError as error:
        raise UserError(f"method {name}: {error}") from error


def depends_on_total_steps(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the first steps would differ if the training were longer."""
    method = look_up("method", name, METHODS)
    chosen = choose_settings(f"method {name}", settings, method.settings)
    return (
        chosen.get("schedule", "constant") != "constant"
        or chosen.get("warmup_fraction", 0.0) > 0
    )
