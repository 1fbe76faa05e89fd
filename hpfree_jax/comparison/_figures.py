"""The figures of the report, with Matplotlib, and as SVG elements of a page."""

import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hpfree_jax._plots import fit_limits, new_figure, tidy
from hpfree_jax.comparison._profile import MAX_FACTOR, share_within
from hpfree_jax.comparison._records import RunRecord
from hpfree_jax.comparison._results import Results
from hpfree_jax.comparison._specs import TaskSpec

Style = Mapping[str, Any]


def line_styles(labels: Sequence[str]) -> dict[str, Style]:
    """A colour and a dash pattern for each method, the same in all pictures."""
    colours = [f"C{index}" for index in range(10)]
    patterns = ["-", "--", ":", "-."]
    pairs = itertools.product(patterns, colours)
    return {
        label: {"color": colour, "linestyle": pattern}
        for label, (pattern, colour) in zip(
            labels, itertools.cycle(pairs), strict=False
        )
    }


def draw_curves(results: Results, task: TaskSpec) -> Any:
    """Losses, accuracy and effective learning rate on a task over the steps.

    A line is the mean over the seeds and the band ranges from the smallest to the
    largest; a cross marks where a seed diverged.
    """
    figure = new_figure(11, 7.6)
    panels = {
        ("train", "loss"): ("Training loss", "log"),
        ("test", "loss"): ("Test loss", "log"),
        ("test", "accuracy"): ("Test accuracy", "linear"),
        ("train", "learning_rate"): ("Effective learning rate", "log"),
    }
    styles = line_styles([method.label for method in results.plan.methods])
    axes_of = dict(zip(panels, figure.subplots(2, 2).flat, strict=True))
    for (split, key), axes in axes_of.items():
        title, scale = panels[split, key]
        axes.set(title=title, xlabel="step", xlim=(0, task.steps))
        limits = []
        for method in results.plan.methods:
            records = results.result(task, method).records
            style = styles[method.label]
            limits += _line_with_band(axes, records, split, key, style)
        if limits:
            fit_limits(axes, limits, scale)
        else:
            axes.text(0.5, 0.5, "no method has one", ha="center", va="center",
                      transform=axes.transAxes)  # fmt: skip
        tidy(axes)
    target = results.targets[task.name]
    if target.exists:
        _mark_target(axes_of["train", "loss"], target.loss)
    _legend(figure, styles)
    return figure


def draw_profiles(results: Results) -> Any:
    """The performance profiles, in steps and in seconds."""
    figure = new_figure(11, 4.6)
    styles = line_styles([method.label for method in results.plan.methods])
    for axes, unit in zip(figure.subplots(1, 2), ("steps", "seconds"), strict=True):
        for label, ratios in results.ratios(unit).items():
            finite = sorted(ratio for ratio in ratios if ratio < MAX_FACTOR)
            factors = [1, *finite, MAX_FACTOR]
            shares = [share_within(ratios, factor) for factor in factors]
            axes.step(factors, shares, where="post", **styles[label])
        axes.set(
            title=f"{unit.capitalize()} to target",
            xlabel="factor of the best time",
            ylabel="fraction of tasks",
            xlim=(1, MAX_FACTOR),
            ylim=(-0.03, 1.03),
        )
        tidy(axes)
    _legend(figure, styles)
    return figure


def _mark_target(axes, loss: float) -> None:
    grey = "0.4"
    axes.axhline(loss, color=grey, linewidth=0.8, linestyle=(0, (1, 2)))
    place = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "bottom"}
    axes.annotate("target", (0.01, loss), **place, color=grey, fontsize=8)


def _line_with_band(
    axes, records: Sequence[RunRecord], split: str, key: str, style: Style
) -> list[float]:
    """Draws a method; returns the means, for the limits of the axis."""
    by_step: dict[int, list[float]] = {}
    for record in records:
        lines = getattr(record, split)
        points = list(zip(lines["step"], lines[key], strict=True))
        for step, value in points:
            if value is not None:
                by_step.setdefault(step, []).append(value)
        if record.diverged_at is not None and points and points[-1][1]:
            axes.plot(*points[-1], "x", color=style["color"])
    steps = sorted(by_step)
    values = [by_step[step] for step in steps]
    means = list(map(statistics.fmean, values))
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, means, linewidth=1.4, marker=marker, **style)
    if max(map(len, values), default=0) > 1:
        low, high = list(map(min, values)), list(map(max, values))
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)
    return means


def _legend(figure, styles: Mapping[str, Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=9,
    )


def to_svg(figure: Any) -> str:
    """A Matplotlib figure as an element of a page, without the headers of a file."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return "<svg " + text.getvalue().split("<svg ", 1)[1]
