"""The picture of a run: loss, accuracy, learning rate, and what a method adds."""

import math
from collections.abc import Mapping
from pathlib import Path

from hpfree_jax._plots import (
    Draw,
    Lines,
    draw_line,
    draw_metric,
    make_logarithmic,
    new_figure,
    tidy,
)


def plot_curves(
    lines: Lines,
    path: Path,
    title: str,
    panels: Mapping[str, Draw] | None = None,
    is_rate_scheduled: bool = False,
) -> None:
    """Draws the lines of a metrics file as one PNG picture.

    Args:
      lines: what :meth:`MetricsFile.read` returns.
      path: the picture's file.
      title: the line above it.
      panels: further pictures by title, after loss, accuracy and learning rate.
      is_rate_scheduled: whether the rate was given, and so is drawn on a linear axis.
    """
    drawings: dict[str, Draw] = {
        "Loss": lambda axes: _draw_splits(axes, lines, "loss"),
        "Accuracy": lambda axes: _draw_splits(axes, lines, "accuracy"),
        "Effective learning rate": lambda axes: draw_metric(
            axes, lines, "learning_rate", "tab:green", not is_rate_scheduled
        ),
        **(panels or {}),
    }
    rows = math.ceil(len(drawings) / 3)
    columns = math.ceil(len(drawings) / rows)
    figure = new_figure(11 / 3 * columns, 3.4 * rows)
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, draw) in zip(all_axes, drawings.items(), strict=False):
        axes.set(title=name, xlabel="step")
        tidy(axes)
        draw(axes)
    for axes in all_axes[len(drawings) :]:
        axes.remove()
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _draw_splits(axes, lines: Lines, key: str) -> None:
    from matplotlib.ticker import PercentFormatter

    draw_line(axes, lines, key, "training", "tab:blue")
    if any(f"validation_{key}" in line for line in lines):
        draw_line(axes, lines, f"validation_{key}", "validation", "tab:red")
    draw_line(axes, lines, f"test_{key}", "test", "tab:orange")
    axes.legend(frameon=False)
    if key == "loss":
        make_logarithmic(axes)
    else:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
