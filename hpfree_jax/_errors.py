"""What the user typed: one exception for all of it, and names looked up in tables."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Something the user asked for cannot be done; the message says what can.

    The command line prints it as one line, without a traceback.
    """


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Returns ``table[name]``, or says which names there are.

    Args:
      kind: the argument that holds the name, for the message.
      name: the name looked for.
      table: from names to values.

    Raises:
      UserError: if there is no such name.

    >>> look_up("model", "fnc", {"fcn": 1, "lenet5": 2})
    Traceback (most recent call last):
    hpfree_jax._errors.UserError: unknown model 'fnc' (did you mean 'fcn'?); ...
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name.lower(), list(table), n=3)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    raise UserError(f"unknown {kind} {name!r}{hint}; choose one of {', '.join(table)}")


def choose_settings(
    owner: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the defaults, replaced by the settings that are given (not None).

    Args:
      owner: whose settings these are, such as ``"method agd"``, for the message.
      settings: every setting there is; None means that it was not given.
      defaults: the settings that the owner takes.

    Raises:
      UserError: if a setting is given that the owner does not take.

    >>> choose_settings("method agd", {"gain": 2.0, "rate": None}, {"gain": 1.0})
    {'gain': 2.0}
    >>> choose_settings("method agd", {"gain": None, "rate": 0.1}, {"gain": 1.0})
    Traceback (most recent call last):
    hpfree_jax._errors.UserError: `rate` 0.1 does not apply to method agd, ...
    """
    for name, value in settings.items():
        if value is not None and name not in defaults:
            takes = ", ".join(f"`{key}`" for key in defaults) or "no settings"
            raise UserError(
                f"`{name}` {value} does not apply to {owner}, which takes {takes}; "
                "leave it out"
            )
    given = {key: settings.get(key) for key in defaults}
    return {
        key: default if given[key] is None else given[key]
        for key, default in defaults.items()
    }
