"""The report: one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from hpfree_jax.comparison._figures import draw_curves, draw_profiles, to_svg
from hpfree_jax.comparison._profile import MAX_FACTOR
from hpfree_jax.comparison._records import RunRecord
from hpfree_jax.comparison._results import Results
from hpfree_jax.comparison._specs import TaskSpec
from hpfree_jax.comparison._tables import (
    grid_table,
    score_table,
    settings_table,
    task_table,
)


def render_report(results: Results, sessions: Sequence[dict[str, Any]]) -> str:
    """Renders the page.

    Args:
      results: the results.
      sessions: those of ``plan.json``, with time, command, versions and device.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    tasks = [
        {
            "spec": task,
            "table": task_table(results, task),
            "curves": to_svg(draw_curves(results, task)),
            "num_params": _records(results, task)[0].num_params,
            "at_once": _at_once(_records(results, task)),
        }
        for task in results.plan.tasks
    ]
    return environment.get_template("report.html.jinja").render(
        results=results,
        sessions=sessions,
        tasks=tasks,
        scores=score_table(results),
        profiles=to_svg(draw_profiles(results)),
        settings=settings_table(results),
        grids=[grid_table(results, m) for m in results.plan.methods if m.grid],
        max_factor=MAX_FACTOR,
    )


def _records(results: Results, task: TaskSpec) -> list[RunRecord]:
    methods = results.plan.methods
    return [r for method in methods for r in results.result(task, method).records]


def _at_once(records: Sequence[RunRecord]) -> str:
    numbers = sorted({record.seeds_at_once for record in records})
    if numbers == [1]:
        return "one seed after another"
    rest = ", for some methods one after another" if numbers[0] == 1 else ""
    return f"{numbers[-1]} seeds at once{rest}"
