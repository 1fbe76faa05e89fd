"""Ctrl-C and SIGTERM as a wish that the training loop looks at between steps."""

import signal
import threading
from types import FrameType


class Interrupt:
    """Catches SIGINT and SIGTERM while the ``with`` block runs.

    The first sets :attr:`requested`; the second raises ``KeyboardInterrupt`` wherever
    the program is. Signals only reach the main thread: elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
