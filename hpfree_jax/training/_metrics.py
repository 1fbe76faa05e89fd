"""The metrics of a run: one JSON object on a line, appended as training goes."""

import json
from pathlib import Path
from typing import Any

from hpfree_jax.training._files import writing


class MetricsFile:
    """The file ``metrics.jsonl`` of a run.

    Every line has a ``step``, the number of updates made. Training lines hold means
    over the steps since the line before, evaluation lines the values on the test data.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, **values: Any) -> None:
        """Writes a line; refuses what JSON has no word for (NaN, infinities).

        Raises:
          WriteError: if it cannot be written.
        """
        line = json.dumps(values, allow_nan=False)
        with writing(self.path), self.path.open("a") as file:
            file.write(line + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Returns the lines; one cut short by a crash is left out."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def drop_after(self, step: int) -> None:
        """Forgets the lines of later steps, which a resumed run writes again."""
        kept = [line for line in self.read() if line["step"] <= step]
        aside = self.path.with_suffix(".tmp")
        with writing(self.path):
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
            aside.replace(self.path)
