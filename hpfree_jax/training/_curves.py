"""The picture of a run: loss, accuracy and effective learning rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_curves(lines: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draws the lines of a metrics file as one PNG picture.

    Args:
      lines: what :meth:`MetricsFile.read` returns.
      path: the picture's file.
      title: the line above it.
    """
    # Without pyplot: no window system is looked for, and no global figure is kept.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

    train = [line for line in lines if "loss" in line]
    test = [line for line in lines if "test_loss" in line]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, key in ((left, "loss"), (middle, "accuracy")):
        _line(axes, train, key, "training", "tab:blue")
        _line(axes, test, f"test_{key}", "test", "tab:orange")
        axes.legend(frameon=False)
    _line(right, train, "learning_rate", None, "tab:green")
    left.set(title="Loss", yscale="log")
    plain = FuncFormatter(lambda y, _: f"{y:g}")
    left.yaxis.set_major_formatter(plain)
    left.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    left.yaxis.set_minor_formatter(plain)
    middle.set(title="Accuracy")
    middle.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set(title="Effective learning rate", ylim=(0, None))
    for axes in (left, middle, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _line(axes, lines, key, label, color):
    steps, values = [x["step"] for x in lines], [x[key] for x in lines]
    axes.plot(steps, values, color=color, label=label, linewidth=1.5)
    if len(steps) == 1:
        axes.plot(steps, values, "o", color=color)
