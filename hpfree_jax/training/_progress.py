"""How far the training is: a bar on a terminal, else a line from time to time."""

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

PATIENCE = 20  # seconds before a line says what is being waited for
INTERVAL = 60  # seconds between lines within an epoch


class Progress:
    """Shows a training run; use it in a ``with`` statement.

    Without a terminal, results are lines. Where they are more than a minute apart, a
    line between them says how far the run is.

    Args:
      total_steps: the number of steps when the run is done.
      first_step: steps made before, by the run that is resumed.
    """

    def __init__(self, total_steps: int, first_step: int):
        self._total_steps = total_steps
        self._first_step = self._step = first_step
        self._begin = self._latest_line = time.monotonic()
        self._bar = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "training", total=self._total_steps, completed=self._first_step
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, num_steps: int) -> None:
        """Counts steps that were started."""
        self._step += num_steps
        if self._bar is not None:
            self._bar.advance(self._task, num_steps)
        elif time.monotonic() - self._latest_line >= INTERVAL:
            self.report(f"step {self._step}/{self._total_steps}, {self._remaining()}")

    def report(self, text: str) -> None:
        """Shows one line of results."""
        self._latest_line = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            print(text, flush=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Says what is being waited for, if that takes long; then the steps begin."""
        timer = threading.Timer(PATIENCE, lambda: self.report(f"{what} ..."))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        self._begin = time.monotonic()

    def _remaining(self) -> str:
        seconds = time.monotonic() - self._begin
        per_step = seconds / (self._step - self._first_step)
        left = round(per_step * (self._total_steps - self._step))
        return f"{per_step:.3g} s each, about {datetime.timedelta(seconds=left)} left"
