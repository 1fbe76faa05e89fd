"""The tidy table of a comparison: one row per logged line of each run."""

import importlib.util
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._results import Result, Results

FORMATS = ("csv", "parquet")

# The columns and their types, which Parquet keeps.
COLUMNS = {
    **dict.fromkeys(("task", "dataset", "model"), "string"),
    "batch_size": "int64",
    **dict.fromkeys(("method", "settings", "init"), "string"),
    **dict.fromkeys(("best_of", "seed"), "int64"),
    **dict.fromkeys(("status", "split"), "string"),
    "step": "int64",
    **dict.fromkeys(("seconds", "loss", "accuracy", "learning_rate"), "float64"),
}


def rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yields a row for each line of metrics of the runs that the report shows.

    Methods with a grid have the runs at the chosen learning rate.
    """
    for task in results.plan.tasks:
        for method in results.plan.methods:
            yield from _rows(results.result(task, method))


def _rows(result: Result) -> Iterator[dict[str, Any]]:
    task = result.task
    for record in result.records:
        run = {
            "task": task.name,
            "dataset": task.dataset,
            "model": task.model,
            "batch_size": task.batch_size,
            "method": result.method.label,
            "settings": json.dumps(record.run["settings"]),
            "init": record.run["init"],
            "best_of": max(1, len(result.method.grid)),
            "seed": record.run["seed"],
            "status": record.status,
        }
        for split in ("train", "test", "validation"):
            lines = getattr(record, split)
            for index, step in enumerate(lines.get("step", [])):
                rates = lines.get("learning_rate")
                yield {
                    **run,
                    "split": split,
                    "step": step,
                    "seconds": step * record.seconds_per_step,
                    "loss": lines["loss"][index],
                    "accuracy": lines["accuracy"][index],
                    "learning_rate": rates[index] if rates else None,
                }
        if record.diverged_at is not None:  # no metrics at the step where it diverged
            yield {**run, "split": "train", "step": record.diverged_at}


def check_format(kind: str) -> None:
    """Raises UserError if a package that writes the format is not installed."""
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "`table` parquet needs the package pyarrow, which is not installed; run "
            '`pip install "hpfree-jax[parquet]"`, or take csv'
        )


def table_bytes(results: Results, kind: str) -> bytes:
    """The table as the content of a file.

    Args:
      results: the results.
      kind: one of :data:`FORMATS`.
    """
    return (_parquet if kind == "parquet" else _csv)(rows(results))


def _csv(table: Iterator[dict[str, Any]]) -> bytes:
    """CSV with all strings quoted, so that an empty cell is a missing value."""
    lines = [",".join(map(_cell, COLUMNS))]
    lines += [",".join(_cell(row.get(name)) for name in COLUMNS) for row in table]
    return "".join(f"{line}\n" for line in lines).encode()


def _cell(value: str | float | None) -> str:
    """A cell of a CSV file; a float has the fewest digits that read back the same.

    >>> [_cell(value) for value in ("a, b", 3, 2.0, 1e-5, 1e-7, None)]
    ['"a, b"', '3', '2', '0.00001', '1e-7', '']
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    if value == 0 or 1e-6 <= abs(value) < 1e15:
        return np.format_float_positional(value, trim="-")
    return np.format_float_scientific(value, trim="-", exp_digits=1)


def _parquet(table: Iterator[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(table), schema=schema), file)
    return file.getvalue()
