"""What all pictures share: figures, lines of metrics, axes that suit their values."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Lines = Sequence[Mapping[str, Any]]
Draw = Callable[[Any], None]  # on the Matplotlib axes that it is given

# A logarithmic axis has labels at 1, 2 and 5 times the powers of ten; over more than
# so many decades at the powers alone, within this factor at even distances.
LABELLED_DECADES = 4
EVEN_FACTOR = 8


def new_figure(width: float, height: float) -> Any:
    """An empty Matplotlib figure, its size in inches."""
    # Without pyplot: no window system is looked for, and no global figure is kept.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes) -> None:
    """Gives axes a faint grid, and no frame at the top and on the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


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
    values = draw_line(axes, lines, key, None, color)
    largest = max(map(abs, values), default=0)
    if largest == 0 or not may_be_logarithmic:
        axes.set_ylim(0, None)
    elif min(values) < 0:
        axes.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(largest) - 2))
        axes.axhline(0, color="black", linewidth=0.8)
    elif min(values) * 4 < largest and min(values) > 0:
        make_logarithmic(axes)
    else:
        axes.set_ylim(0, None)
    if axes.get_yscale() == "linear":
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)


def varies(lines: Lines, key: str) -> bool:
    """Whether a metric is written and moves by more than a hundredth of its size."""
    values = [line[key] for line in lines if key in line]
    return bool(values) and max(values) - min(values) > 0.01 * max(map(abs, values))


def draw_line(
    axes, lines: Lines, key: str, label: str | None, color: str
) -> list[float]:
    """Draws a metric over the steps where it is written; returns its values."""
    found = [line for line in lines if key in line]
    steps, values = [x["step"] for x in found], [x[key] for x in found]
    axes.plot(steps, values, color=color, label=label, linewidth=1.5)
    if len(steps) == 1:
        axes.plot(steps, values, "o", color=color)
    return values


def make_logarithmic(axes) -> None:
    """Makes the vertical axis logarithmic, with as many labels as its range has room.

    To be called when the data are drawn, or the limits are set.
    """
    from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high > low * 10**LABELLED_DECADES:
        return  # powers of ten alone, as Matplotlib has them
    plain = FuncFormatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_major_formatter(plain)
    if high < EVEN_FACTOR * low:
        axes.yaxis.set_major_locator(AutoLocator())
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(plain)


def fit_limits(axes, values: Sequence[float], scale: str) -> None:
    """Fits the vertical axis to values, but for a few that would flatten all others.

    Args:
      axes: of Matplotlib.
      values: what is drawn.
      scale: ``log`` or ``linear``; log without a positive value becomes linear.
    """
    if scale == "log":
        values = [value for value in values if value > 0]
        if not values:
            return
        middle = float(np.median(values))
        low, high = max(min(values), 1e-6 * middle), min(max(values), 1e3 * middle)
        axes.set_ylim(low / 1.3, high * 1.3)
        make_logarithmic(axes)
    else:
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or 0.01
        axes.set_ylim(low - margin, high + margin)
