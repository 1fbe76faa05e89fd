"""What a field of a configuration says about itself to whoever shows it."""

from collections.abc import Collection
from typing import NamedTuple


class Option(NamedTuple):
    """Metadata of a field, in its ``Annotated``: an option of the command line too."""

    help: str
    names: Collection[str] = ()  # a table's keys; read when shown, so registered too
    unset: str | None = (
        None  # what happens if it is not given, where None stands for it
    )
