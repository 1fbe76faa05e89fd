"""The tidy table of a comparison: a row for each line of metrics of each run."""

import io
import json
from collections.abc import Iterator
from typing import Any

from hpfree_jax.comparison._results import Result, Summary

FORMATS = ("csv", "parquet")


def rows(summary: Summary) -> Iterator[dict[str, Any]]:
    """Yields the rows, of all runs that the report shows.

    Of a grid these are the runs at the best rate.
    """
    for task in summary.plan.tasks:
        for method in summary.plan.methods:
            yield from _rows(summary.result(task, method))


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
        if record.diverged_at is not None:  # a row without numbers where it ended
            yield {**run, "split": "train", "step": record.diverged_at}


def table_bytes(summary: Summary, kind: str) -> bytes:
    """The table as a file.

    Args:
      summary: the results.
      kind: one of :data:`FORMATS`.
    """
    # Of TFDS's own needs, so nothing more is installed.
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("task", "dataset", "model")),
            ("batch_size", pa.int64()),
            *((name, pa.string()) for name in ("method", "settings", "init")),
            *((name, pa.int64()) for name in ("best_of", "seed")),
            *((name, pa.string()) for name in ("status", "split")),
            ("step", pa.int64()),
            *((name, pa.float64()) for name in ("seconds", "loss", "accuracy")),
            ("learning_rate", pa.float64()),
        ]
    )
    table = pa.Table.from_pylist(list(rows(summary)), schema=schema)
    file = io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        pyarrow.csv.write_csv(table, file)
    return file.getvalue()
