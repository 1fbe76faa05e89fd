"""The table of training methods: ours, and optax's to compare with."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import optax

import hpfree_jax as hp
from hpfree_jax._errors import UserError, look_up
from hpfree_jax._settings import Setting, choose, register
from hpfree_jax.descent import Norm
from hpfree_jax.methods._autowu import AUTOWU_METHODS
from hpfree_jax.methods._contrib import PEERS
from hpfree_jax.methods._hypergradients import HYPERGRADIENT_METHODS
from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._optax import MOMENTUM_HELP, OPTAX_METHODS


def _build_agd(length: Length, gain, momentum, layout, *, norm: Norm = "frobenius"):
    del length  # AGD has no horizon
    return hp.agd(gain, layout, norm=norm, momentum=momentum)


def _build_auto(length: Length, params, architecture):
    return hp.auto(params, architecture, length.total_steps)


_GAIN = Setting(1.0, "Factor of the updates.")

METHODS: dict[str, Method] = {
    "auto": Method(
        _build_auto,
        {},
        "default",
        "hpfree_jax.auto, chosen by the no-tuning suite",
        loss="cross_entropy",
        model_args=("params", "architecture"),
        has_horizon=True,
        remedy="--batch-size or --init agd",
    ),
    "agd": Method(
        _build_agd,
        {"gain": _GAIN, "momentum": Setting(0.0, MOMENTUM_HELP)},
        "agd",
        "arXiv 2304.05187",
        model_args=("layout",),
        remedy="--gain",
    ),
    "agd_spectral": Method(
        functools.partial(_build_agd, norm="spectral"),
        {"gain": _GAIN, "momentum": Setting(0.9, MOMENTUM_HELP)},
        "agd",
        "AGD under the spectral norm",
        model_args=("layout",),
        remedy="--gain",
    ),
    **HYPERGRADIENT_METHODS,
    **AUTOWU_METHODS,
    **OPTAX_METHODS,
    **PEERS,
}
# All that a method can work inside of, for the help text.
INNERS = {name: None for method in METHODS.values() for name in method.inners}


def register_method(name: str, method: Method) -> None:
    """Adds a method of your own to :data:`METHODS`.

    From then on :func:`build_optimizer`, training, comparisons and the command line's
    listings find it by its name.

    Raises:
      UserError: if the name is taken or no word, or the method is no row of the table.

    >>> build = lambda length, learning_rate: optax.sgd(learning_rate)
    >>> mine = Method(build, {"learning_rate": 0.1}, "default", "a method of my own")
    >>> register_method("mine", mine)
    >>> method_settings("mine", {})
    {'learning_rate': 0.1}
    >>> del METHODS["mine"]
    """
    register("method", METHODS, name, method, Method)


def method_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all settings of a method: those given (not None), and its defaults.

    Raises:
      UserError: if there is no such method, or it does not take a setting.

    >>> method_settings("sgd", {"momentum": 0.5})["learning_rate"]
    0.01
    >>> method_settings("hd", {"inner": "adam", "momentum": 0.5})
    Traceback (most recent call last):
    hpfree_jax._errors.UserError: `momentum` 0.5 does not apply to method hd ...
    """
    method = look_up("method", name, METHODS)
    settings = method.settings_with(given.get("inner"))
    owner = f"method {name}"
    if method.inners:
        owner += f" with inner {settings['inner'].default}"
    return choose(owner, given, settings)


def build_optimizer(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    total_steps: int,
    steps_per_epoch: int | None = None,
    model: Mapping[str, Any] | None = None,
    learning_rate_factor: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer of the table.

    Args:
      name: a key of :data:`METHODS`.
      settings: the method's own settings, such as ``gain``; None values are defaults.
      total_steps: updates in the whole training, which schedules need.
      steps_per_epoch: updates in a pass over the data; None: in the whole training.
      model: ``params``, ``architecture`` and ``layout``, as far as the method needs
        them; without a layout, AGD infers it from names and shapes.
      learning_rate_factor: what the learning rate is multiplied by, if there is one.

    Raises:
      UserError: if there is no such method, if it does not take a setting (AGD has no
        learning rate to set), or if a value is out of range.

    >>> build_optimizer("agd", {"learning_rate": 0.1}, total_steps=10)
    Traceback (most recent call last):
    hpfree_jax._errors.UserError: `learning_rate` 0.1 does not apply to method ...
    """
    chosen = method_settings(name, settings or {})
    for key in ("momentum", "weight_decay"):
        value = chosen.get(key, 0.0)
        if not 0 <= value < (1 if key == "momentum" else math.inf):
            raise UserError(f"`{key}` {value} is out of range; take 0 to turn it off")
    if "learning_rate" in chosen:
        rate = chosen["learning_rate"]
        if not (rate > 0 and math.isfinite(rate)):
            raise UserError(f"`learning_rate` must be above 0, got {rate}")
        chosen["learning_rate"] *= learning_rate_factor
    given = {"layout": None, **(model or {})}
    chosen |= {arg: given[arg] for arg in METHODS[name].model_args}
    # A training can end within its first epoch.
    length = Length(total_steps, min(steps_per_epoch or total_steps, total_steps))
    try:
        return optax.with_extra_args_support(METHODS[name].build(length, **chosen))
    except ValueError as error:
        raise UserError(f"method {name}: {error}") from error


def depends_on_total_steps(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the first steps would differ if the training were longer."""
    chosen = method_settings(name, settings)
    return (
        METHODS[name].has_horizon
        or chosen.get("schedule", "constant") != "constant"
        or chosen.get("warmup_fraction", 0.0) > 0
    )
