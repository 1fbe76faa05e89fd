"""What pictures share: lines of metrics on axes that suit them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Lines = Sequence[Mapping[str, Any]]
Draw = Callable[[Any], None]  # on the Matplotlib axes that it is given


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


def make_logarithmic(axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers at its marks."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    plain = FuncFormatter(lambda y, _: f"{y:g}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(plain)


def draw_line(
    axes, lines: Lines, key: str, label: str | None, color: str
) -> list[float]:
    found = [line for line in lines if key in line]
    steps, values = [x["step"] for x in found], [x[key] for x in found]
    axes.plot(steps, values, color=color, label=label, linewidth=1.5)
    if len(steps) == 1:
        axes.plot(steps, values, "o", color=color)
    return values
