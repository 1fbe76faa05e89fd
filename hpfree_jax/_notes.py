"""Notes that the library logs, as lines of the command line's output."""

import contextlib
import logging
from collections.abc import Iterator


class _NotePrinter(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"note: {record.getMessage()}", flush=True)


@contextlib.contextmanager
def printed_notes() -> Iterator[None]:
    """Prints each warning of the library's logger as ``note: ...`` within the block."""
    logger, printer = logging.getLogger("hpfree_jax"), _NotePrinter(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(printer)
    logger.propagate = False  # absl, which Orbax uses, prints them on stderr too
    try:
        yield
    finally:
        logger.removeHandler(printer)
        logger.propagate = propagate
