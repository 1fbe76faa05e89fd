"""How far the training is: a bar on a terminal, else a line from time to time."""

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Iterator

PATIENCE = 20  # seconds before a line says what is being waited for
INTERVAL = 60  # seconds between lines within an epoch


class Progress:
    """Prints how far a run is.

    On a terminal that is a bar. Without one, results are lines; where they are more
    than a minute apart, a line between them says how far the run is.

    Args:
      is_quiet: whether to print nothing.
    """

    def __init__(self, is_quiet: bool = False):
        self._is_quiet, self._bar = is_quiet, None
        self._total_steps = self._first_step = self._step = 0
        self._begin = self._latest_line = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line."""
        if not self._is_quiet:
            print(text, flush=True)

    @contextlib.contextmanager
    def steps(self, total_steps: int, first_step: int = 0) -> Iterator[None]:
        """Covers the training; a resumed run begins after ``first_step`` steps."""
        self._total_steps = total_steps
        self._first_step = self._step = first_step
        self._begin = self._latest_line = time.monotonic()
        if self._is_quiet or not sys.stderr.isatty():
            yield
            return
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
        self._task = self._bar.add_task(
            "training", total=total_steps, completed=first_step
        )
        try:
            with self._bar:
                yield
        finally:
            self._bar = None

    def advance(self, num_steps: int) -> None:
        """Counts steps; prints a line if the latest is a minute ago."""
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
            self.say(text)

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
