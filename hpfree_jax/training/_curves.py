"""The picture of a run: loss, accuracy, learning rate, and what a method adds."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Lines = Sequence[Mapping[str, Any]]
Draw = Callable[[Any], None]  # on the Matplotlib axes that it is given


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
    # Without pyplot: no window system is looked for, and no global figure is kept.
    from matplotlib.figure import Figure

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
    figure = Figure(figsize=(11 / 3 * columns, 3.4 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, draw) in zip(all_axes, drawings.items(), strict=False):
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
    for axes in all_axes[len(drawings) :]:
        axes.remove()
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def draw_metric(
    axes,
    lines: Lines,
    key: str,
    color: str = "tab:purple",
    may_be_logarithmic: bool = True,
) -> None:
    """Draws a metric of the training steps on a scale that suits its values.

    Logarithmic if they are positive and more than a factor of 4 apart; with values of
    both signs, logarithmic on both sides of 0; else linear from 0.
    """
    values = _line(axes, lines, key, None, color)
    largest = max(map(abs, values), default=0)
    if largest == 0 or not may_be_logarithmic:
        axes.set_ylim(0, None)
    elif min(values) < 0:
        axes.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(largest) - 2))
        axes.axhline(0, color="black", linewidth=0.8)
    elif min(values) * 4 < largest and min(values) > 0:
        _make_logarithmic(axes)
    else:
        axes.set_ylim(0, None)
    if axes.get_yscale() == "linear":
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)


def varies(lines: Lines, key: str) -> bool:
    """Whether a metric is written and moves by more than a hundredth of its size."""
    values = [line[key] for line in lines if key in line]
    return bool(values) and max(values) - min(values) > 0.01 * max(map(abs, values))


def _draw_splits(axes, lines: Lines, key: str) -> None:
    from matplotlib.ticker import PercentFormatter

    _line(axes, lines, key, "training", "tab:blue")
    if any(f"validation_{key}" in line for line in lines):
        _line(axes, lines, f"validation_{key}", "validation", "tab:red")
    _line(axes, lines, f"test_{key}", "test", "tab:orange")
    axes.legend(frameon=False)
    if key == "loss":
        _make_logarithmic(axes)
    else:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _make_logarithmic(axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    plain = FuncFormatter(lambda y, _: f"{y:g}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(plain)


def _line(axes, lines: Lines, key: str, label: str | None, color: str) -> list[float]:
    found = [line for line in lines if key in line]
    steps, values = [x["step"] for x in found], [x[key] for x in found]
    axes.plot(steps, values, color=color, label=label, linewidth=1.5)
    if len(steps) == 1:
        axes.plot(steps, values, "o", color=color)
    return values
