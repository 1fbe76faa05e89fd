"""Command-line arguments: parsed by tyro, whose errors become one line."""

import contextlib
import io
import re
from typing import TypeVar

import tyro

from hpfree_jax._errors import UserError

T = TypeVar("T")

# tyro wants a value for an option that can also be None.
_FLAGS = {
    flag: f"--{name}={value}"
    for name in (
        *("bias", "affine", "pre-activation", "final-norm", "tied", "remat", "scan"),
    )
    for flag, value in ((f"--{name}", True), (f"--no-{name}", False))
}


def parse_arguments(args: list[str], default: T, program: str) -> T:
    """Parses by tyro, whose framed errors of several lines become one line."""
    args = [_FLAGS.get(arg, arg) for arg in args]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(type(default), prog=program, args=args, default=default)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        text = _unframed(shown.getvalue())
        raise UserError(f"{text}; {program} --help lists the options") from None


def _unframed(text: str) -> str:
    """The message in a frame that tyro drew, without its title and help text.

    >>> _unframed("╭─ Title ─╮ │ Bad │ │ option │ │ ──── │ │ Help │ ╰────╯")
    'Bad option'
    """
    text = re.sub(r"╭.*?╮|╰.*?╯", "", text, flags=re.DOTALL)
    message, *help_text = re.split(r"─+", " ".join(text.replace("│", " ").split()))
    hint = re.search(r"Perhaps you meant: *(\S+)", " ".join(help_text))
    return message.strip() + (f" (did you mean {hint[1]}?)" if hint else "")
