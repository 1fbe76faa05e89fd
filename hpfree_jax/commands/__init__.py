"""The commands of ``hpfree``, each in a module; see :mod:`hpfree_jax.cli`."""

import enum


class ExitCode(enum.IntEnum):
    """What a command returns to the shell."""

    DONE = 0
    FAILED = 2  # cannot be done as asked, or diverged: one line on stderr says why
    INTERRUPTED = 130  # what shells report of a program ended by Ctrl-C
