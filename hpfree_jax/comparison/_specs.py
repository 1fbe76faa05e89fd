"""What is compared: tasks and methods, and how the command line writes them."""

import collections
import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from hpfree_jax._errors import UserError, choose_settings, look_up
from hpfree_jax.data import dataset_kind
from hpfree_jax.methods import METHODS, method_settings
from hpfree_jax.models import MODELS
from hpfree_jax.training import TrainConfig
from hpfree_jax.training.engine import Init, LossName

# Names that mean something else here than in the trainer: method and settings. Plain
# gradient descent stands beside momentum, and nadamw is the baseline of AlgoPerf.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {"learning_rate": 0.1, "momentum": 0.0}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nadamw": ("nadamw", {"schedule": "cosine", "warmup_fraction": 0.05}),
}
# All names of methods, those that are registered later too.
METHOD_NAMES = collections.ChainMap[str, Any](PRESETS, METHODS)


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One task: a network, its data, and how long it is trained.

    Every method of a comparison trains every task.
    """

    name: str  # unique in a comparison
    dataset: str  # a key of DATASETS, or a folder of token files
    model: str  # a key of MODELS
    model_settings: Mapping[str, Any]  # the model's own, such as depth
    batch_size: int  # examples in a step
    steps: int  # updates
    loss: LossName
    # Steps between two evaluations; None: as the comparison has it.
    evaluate_every: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether the data are tokens."""
        return dataset_kind(self.dataset) == "tokens"

    def identity(self) -> dict[str, Any]:
        """What the result depends on; when it is evaluated, the intervals say."""
        fields = dataclasses.asdict(self)
        del fields["evaluate_every"]
        return fields


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """One method as it takes part: with its settings, or with a grid of rates."""

    label: str  # unique in a comparison
    method: str  # a key of METHODS
    settings: Mapping[str, Any]  # all of them, defaults included
    chosen: tuple[str, ...] = ()  # the names of those that the user wrote
    init: Init | None = None  # None: what belongs to the method
    validation_fraction: float | None = None  # held out; None: what the method needs
    grid: tuple[float, ...] = ()  # learning rates to choose from, for each task

    def variants(self) -> "list[MethodSpec]":
        """The method at each rate of its grid; itself where it has none."""
        return [
            dataclasses.replace(
                self,
                label=f"{self.label}: {rate:g}",
                settings={**self.settings, "learning_rate": rate},
                grid=(),
            )
            for rate in self.grid
        ] or [self]


def parse_model(text: str) -> tuple[str, dict[str, Any]]:
    """Reads a model with settings, as ``fcn:depth=8,width=64``.

    Raises:
      UserError: if there is no such model, or it does not take a setting.

    >>> parse_model("fcn:depth=8,bias=true")
    ('fcn', {'depth': 8, 'bias': True})
    """
    name, given = _split(text, "models")
    defaults = look_up("model", name, MODELS).defaults
    settings = _typed(text, given, defaults)
    choose_settings(f"model {name}", settings, defaults)
    return name, settings


def parse_method(text: str, grid: tuple[float, ...] = ()) -> MethodSpec:
    """Reads a method with settings, as ``adam:learning_rate=3e-3,schedule=cosine``.

    Args:
      text: what was typed, which becomes the label.
      grid: the rates to choose from.

    Raises:
      UserError: if there is no such method, or it does not take a setting.

    >>> parse_method("adam:schedule=cosine").settings["schedule"]
    'cosine'
    """
    name, given = _split(text, "methods")
    look_up("method", name, METHOD_NAMES)
    method, preset = PRESETS.get(name, (name, {}))
    inner = {"inner": given["inner"]} if "inner" in given else {}
    chosen = _typed(text, given, method_settings(method, inner))
    settings = method_settings(method, {**preset, **chosen})
    label = text
    if grid:
        label = f"{text}, best of {len(grid)}"
        if "learning_rate" not in settings:
            raise UserError(
                f"`grid` {text!r}: method {name} has no learning rate to choose; name "
                "it in --methods instead"
            )
        if "learning_rate" in chosen:
            raise UserError(
                f"`grid` {text!r} sets the learning rate that is to be chosen; leave "
                "it out"
            )
    return MethodSpec(label, method, settings, tuple(chosen), grid=grid)


def run_config(task: TaskSpec, method: MethodSpec, seed: int) -> TrainConfig:
    """The configuration of one run, as the trainer has it, but for its length."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = {**task.model_settings, **method.settings}
    return TrainConfig(
        dataset=task.dataset,
        model=task.model,
        method=method.method,
        loss=task.loss,
        batch_size=task.batch_size,
        seed=seed,
        init=method.init,
        validation_fraction=method.validation_fraction,
        **{name: settings[name] for name in settings if name in known},
        settings={name: settings[name] for name in settings if name not in known},
    )


def slug(text: str) -> str:
    """A text as the name of a directory.

    >>> slug("mnist-fcn:depth=8,width=64")
    'mnist-fcn-depth=8,width=64'
    """
    return re.sub(r"[^\w.=,+~-]+", "-", text)


def _split(text: str, option: str) -> tuple[str, dict[str, str]]:
    name, _, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.split(",") if part]
    for key, sign, value in pairs:
        if not (key and sign and value):
            raise UserError(
                f"`{option}` {text!r}: {key!r} is no setting; write NAME:KEY=VALUE, "
                "with commas between several, as adam:learning_rate=0.003"
            )
    return name, {key.replace("-", "_"): value for key, _, value in pairs}


def _typed(text: str, given: Mapping[str, str], defaults: Mapping[str, Any]):
    return {
        key: _value(text, key, value, defaults.get(key)) for key, value in given.items()
    }


def _value(text: str, key: str, value: str, default: Any) -> Any:
    """Reads a value as the kind of thing that its default is; None tells nothing."""
    words = {"true": True, "false": False}
    if isinstance(default, str):
        return value
    if value in words and isinstance(default, bool | None):
        return words[value]
    kinds = {bool: (), int: (int,), float: (float,)}
    for kind in kinds.get(type(default), (int, float)):
        with contextlib.suppress(ValueError):
            return kind(value)
    if default is None:
        return value
    raise UserError(f"{text!r}: `{key}` must be like {default!r}, got {value!r}")
