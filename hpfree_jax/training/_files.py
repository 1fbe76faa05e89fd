"""Files of a run that cannot be written, because the disk is full, say."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hpfree_jax._errors import UserError


class WriteError(UserError):
    """A file of a run cannot be written; the message says which, and why."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a file that cannot be written into one error."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"{path} cannot be written ({reason})") from error
