"""The command ``hpfree``."""

import sys
from collections.abc import Sequence

from hpfree_jax._errors import UserError, look_up
from hpfree_jax.commands._notes import printed_notes

FAILED, INTERRUPTED = 2, 130  # 130: what shells report of a program ended by Ctrl-C


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    Errors that the user can mend are one line on stderr and exit code 2.

    Args:
      args: the command line without the program's name; None is ``sys.argv[1:]``.
    """
    args = list(sys.argv[1:] if args is None else args)
    try:
        with printed_notes():
            return _dispatch(args)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("hpfree: stopped at once; nothing more was saved", file=sys.stderr)
        return INTERRUPTED


def _dispatch(args: list[str]) -> int:
    commands = {
        "train": (_train, "train a network on real data"),
        "compare": (_compare, "compare training methods side by side"),
        "bench": (_bench, "time a training step of several methods"),
        "architecture": (_architecture, "print and draw the graph of a network"),
        "models": (_models, "list the networks"),
        "datasets": (_datasets, "list the datasets and where they are"),
    }
    if not args or args[0] in ("-h", "--help"):
        print("usage: hpfree COMMAND [options]\n\ncommands:")
        for name, (_, text) in commands.items():
            print(f"  {name:12} {text}")
        print("\nhpfree COMMAND --help lists the options.")
        return 0 if args else FAILED
    if args[0] == "--version":
        import hpfree_jax as hp

        print(hp.__version__)
        return 0
    return look_up("command", args[0], commands)[0](args[1:])


def _train(args: list[str]) -> int:
    from hpfree_jax.commands._train import run_command

    return run_command(args)


def _compare(args: list[str]) -> int:
    from hpfree_jax.commands._compare import run_compare

    return run_compare(args)


def _bench(args: list[str]) -> int:
    from hpfree_jax.commands._bench import run_bench

    return run_bench(args)


def _architecture(args: list[str]) -> int:
    from hpfree_jax.commands._architecture import run_architecture

    return run_architecture(args)


def _models(args: list[str]) -> int:
    from hpfree_jax.commands._listings import run_models

    return run_models(args)


def _datasets(args: list[str]) -> int:
    from hpfree_jax.commands._datasets import run_datasets

    return run_datasets(args)


def _fail(message: str) -> int:
    print(f"hpfree: error: {' '.join(message.split())}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
