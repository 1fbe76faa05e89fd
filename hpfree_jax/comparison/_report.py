"""The report: one HTML page that needs no other file and no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from hpfree_jax.comparison._figures import draw_curves, draw_profiles
from hpfree_jax.comparison._leaderboard import (
    grid_table,
    score_table,
    task_table,
    told_table,
)
from hpfree_jax.comparison._profile import MAX_FACTOR
from hpfree_jax.comparison._summary import Summary


def render_report(summary: Summary, sessions: Sequence[dict[str, Any]]) -> str:
    """Makes the page.

    Args:
      summary: the results.
      sessions: what ``plan.json`` keeps of each: when, command, versions, device.
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
            "table": task_table(summary, task),
            "curves": draw_curves(summary, task),
            "records": summary.result(task, summary.plan.methods[0]).records,
        }
        for task in summary.plan.tasks
    ]
    return environment.get_template("report.html.jinja").render(
        summary=summary,
        sessions=sessions,
        tasks=tasks,
        scores=score_table(summary),
        profiles=draw_profiles(summary),
        told=told_table(summary),
        grids=[grid_table(summary, m) for m in summary.plan.methods if m.grid],
        max_factor=MAX_FACTOR,
    )
