"""Settings of the rows of a table: their defaults, types, limits and help texts."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from hpfree_jax._errors import UserError, choose_settings, look_up

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a model or a method.

    >>> Setting(4, "Layers.", minimum=1).type
    <class 'int'>
    """

    default: Any  # None: chosen by the model or the method itself
    help: str = ""  # one line, a sentence; says what a default of None means
    type: Any = None  # of its values; None: that of the default
    choices: tuple[str, ...] = ()  # the words it takes; (): any
    minimum: float | None = None  # the smallest value; None: not checked here

    def __post_init__(self) -> None:
        if self.type is None:
            inferred = str if self.default is None else type(self.default)
            object.__setattr__(self, "type", inferred)

    def check(self, name: str, value: Any) -> None:
        """Raises UserError unless the setting takes the value."""
        if value is None:
            return
        if self.choices:
            look_up(name, value, dict.fromkeys(self.choices))
        if self.minimum is not None and value < self.minimum:
            raise UserError(f"`{name}` must be at least {self.minimum}, got {value}")


def as_settings(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """Returns the settings of a row, where a plain value stands for a default.

    >>> as_settings({"depth": 4})
    {'depth': Setting(default=4, help='', type=<class 'int'>, choices=(), minimum=None)}
    """
    return {
        name: value if isinstance(value, Setting) else Setting(value)
        for name, value in settings.items()
    }


def defaults_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the defaults of a row's settings.

    >>> defaults_of({"depth": Setting(4, "Layers."), "width": 256})
    {'depth': 4, 'width': 256}
    """
    return {name: setting.default for name, setting in as_settings(settings).items()}


def choose(
    owner: str, given: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings that are given (not None), and the defaults of the others.

    Args:
      owner: whose settings these are, such as ``"method agd"``, for the message.
      given: values by name; None means that it was not given.
      settings: those that the owner takes.

    Raises:
      UserError: if the owner does not take a setting, or the setting not the value.
    """
    settings = as_settings(settings)
    chosen = choose_settings(owner, given, defaults_of(settings))
    try:
        for name, value in chosen.items():
            settings[name].check(name, value)
    except UserError as error:
        raise UserError(f"{owner}: {error}") from error
    return chosen


def register(
    kind: str, table: dict[str, Row], name: str, row: Row, row_type: type[Row]
) -> None:
    """Adds a row of a user's own to a table.

    Raises:
      UserError: if the name is taken or no word, or the row is of another type.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(
            f"the name of a {kind} must consist of letters, digits, `_`, `-` and `.`, "
            f"got {name!r}"
        )
    if not isinstance(row, row_type):
        raise UserError(
            f"{kind} {name} must be registered as a {row_type.__name__}, got a "
            f"{type(row).__name__}"
        )
    if name in table:
        raise UserError(
            f"there is a {kind} {name} already; register yours by another name"
        )
    table[name] = row
