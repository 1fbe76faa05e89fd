"""Axes that all pictures share, looked at as they are drawn."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hpfree_jax._plots import fit_limits, make_logarithmic, new_figure


def labels(axes):
    """The bounds of the labels of the vertical axis that are seen, from below."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    low, high = axes.get_ylim()
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    seen = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    bounds = [text.get_window_extent() for text in seen if text.get_text()]
    return sorted(bounds, key=lambda box: box.y0)


@pytest.mark.parametrize("factor", [1.01, 1.3, 3, 7, 9, 30, 1e3, 9e3, 2e4, 1e7, 1e15])
@pytest.mark.parametrize("largest", [2.3, 1.0, 4e-5, 7e6])
def test_labels_of_a_logarithmic_axis_are_there_and_do_not_overlap(factor, largest):
    axes = new_figure(11 / 3, 3.4).subplots()
    axes.plot([0, 1, 2], [largest, largest / factor**0.5, largest / factor])
    make_logarithmic(axes)
    boxes = labels(axes)
    assert len(boxes) >= 2
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0


def test_a_value_that_explodes_does_not_flatten_the_others():
    axes = new_figure(4, 3).subplots()
    fit_limits(axes, [1.0, 2.0, 3.0, 1e30, 0.0], "log")
    low, high = axes.get_ylim()
    # 0 has no place; 2.5 is the median of the others.
    assert low == pytest.approx(1 / 1.3)
    assert high == pytest.approx(2.5e3 * 1.3)
    assert axes.get_yscale() == "log"
    axes = new_figure(4, 3).subplots()
    fit_limits(axes, [0.0, -1.0], "log")
    assert axes.get_yscale() == "linear"
