"""The command ``hpfree``; nothing is imported before it is known what to do.

Exit codes: 0 done; 2 cannot be done as asked, or diverged (one line on stderr says
why); 130 stopped by Ctrl-C; 1 a defect of ours, with its traceback.
"""

import importlib
import sys
from collections.abc import Sequence

from hpfree_jax import __version__
from hpfree_jax._errors import MissingPackageError, UserError, look_up, needs_extra
from hpfree_jax._notes import printed_notes
from hpfree_jax.commands import ExitCode

# Each command: its module in hpfree_jax.commands, which has the function run_COMMAND,
# and what it does.
COMMANDS = {
    "train": ("_train", "train a network on real data"),
    "compare": ("_compare", "compare training methods side by side"),
    "bench": ("_bench", "time a training step of several methods"),
    "architecture": ("_architecture", "print and draw the graph of a network"),
    "models": ("_listings", "list the networks"),
    "datasets": ("_listings", "list the datasets and where they are"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    Errors that the user can mend are one line on stderr and exit code 2.

    Args:
      args: the command line without the program's name; None is ``sys.argv[1:]``.
    """
    args = list(sys.argv[1:] if args is None else args)
    try:
        with printed_notes():
            return int(_dispatch(args))
    except (UserError, MissingPackageError) as error:
        message = " ".join(str(error).split())
        print(f"hpfree: error: {message}", file=sys.stderr)
        return int(ExitCode.FAILED)
    except SystemExit:  # --help has been printed
        return int(ExitCode.DONE)
    except KeyboardInterrupt:
        print("hpfree: stopped at once; nothing more was saved", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print("usage: hpfree COMMAND [options]\n\ncommands:")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:12} {text}")
        print("\nhpfree COMMAND --help lists the options.")
        return ExitCode.DONE if args else ExitCode.FAILED
    if args[0] == "--version":
        print(__version__)
        return ExitCode.DONE
    module, _ = look_up("command", args[0], COMMANDS)
    with needs_extra(f'"hpfree {args[0]}"', "train"):
        command = importlib.import_module(f"hpfree_jax.commands.{module}")
    return getattr(command, f"run_{args[0]}")(args[1:])


if __name__ == "__main__":
    sys.exit(main())
