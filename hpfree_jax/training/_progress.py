"""How far the training is: a bar on a terminal, else a line per evaluation."""

import sys
from types import TracebackType


class Progress:
    """Shows a training run; use it in a ``with`` statement.

    Args:
      total_steps: the number of steps when the run is done.
      first_step: steps made before, by the run that is resumed.
    """

    def __init__(self, total_steps: int, first_step: int):
        self._total_steps = total_steps
        self._first_step = first_step
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
        if self._bar is not None:
            self._bar.advance(self._task, num_steps)

    def report(self, text: str) -> None:
        """Shows one line of results."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            print(text, flush=True)
