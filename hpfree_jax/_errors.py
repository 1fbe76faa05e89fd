"""Errors that the user can mend, and names and settings looked up in tables."""

import contextlib
import difflib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Something the user asked for cannot be done; the message says what can.

    The command line prints it as one line, without a traceback.
    """


class MissingPackageError(ModuleNotFoundError):
    """A package is missing that an extra of hpfree_jax installs."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed ({package}); install them "
            f'with: pip install "hpfree-jax[{extra}]"',
            name=package,
        )
        self.extra = extra


@contextlib.contextmanager
def needs_extra(what: str, extra: str, *later: str) -> Iterator[None]:
    """Around imports of packages that an extra installs: if one is missing, says so.

    Args:
      what: what needs them, such as ``"hpfree_jax.training"``.
      extra: the extra that installs them; of nested uses, the innermost counts.
      later: packages that are looked for now and imported only when they are used.

    Raises:
      MissingPackageError: if a package other than this one is missing.

    >>> with needs_extra("arch.plot()", "train"):
    ...     import no_such_package
    Traceback (most recent call last):
    hpfree_jax._errors.MissingPackageError: arch.plot() needs packages that ...
    """
    try:
        for package in later:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
        yield
    except MissingPackageError as error:
        raise MissingPackageError(what, error.name or "", error.extra) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", __package__):
            raise
        raise MissingPackageError(what, package, extra) from error


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


def check_positive(config: Any, *names: str) -> None:
    """Raises UserError for the first setting that is given and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")
