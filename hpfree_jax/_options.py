"""What a field of a configuration says about itself to whoever shows it."""

import types
import typing
from collections.abc import Collection
from typing import Any, NamedTuple


class Option(NamedTuple):
    """Metadata of a field, in its ``Annotated``: an option of the command line too."""

    help: str
    names: Collection[str] = ()  # a table's keys; read when shown, so registered too
    unset: str | None = (
        None  # what happens if it is not given, where None stands for it
    )


def types_of(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows; words for a ``Literal``.

    >>> types_of(typing.Literal["a", "b"] | None)
    (<class 'str'>, <class 'NoneType'>)
    """
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return sum(map(types_of, typing.get_args(annotation)), ())
    return (str,) if origin is typing.Literal else (annotation,)
