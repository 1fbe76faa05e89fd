import itertools

import numpy as np
import pytest

from hpfree_jax.comparison._figures import (
    draw_curves,
    draw_profiles,
    line_styles,
    to_svg,
)
from hpfree_jax.comparison._results import Results

from .records import TASK, method, plan, record

RUNS = {
    "good": [record([4.0, 1.0], accuracy=0.8), record([2.0, 0.5], accuracy=0.6)],
    "bad": [record([8.0], diverged_at=12), record([4.0, 2.0])],
}


@pytest.fixture
def results():
    specs = [method(label, "agd") for label in RUNS]
    read = lambda task, variant: RUNS[variant.label]
    return Results(plan(*specs, num_seeds=2), read, target=2.5)


def lines(axes):
    return [np.asarray(line.get_xydata()).tolist() for line in axes.lines]


def test_curves_are_means_with_bands_and_crosses_where_seeds_diverge(results):
    figure = draw_curves(results, TASK)
    loss, test_loss, accuracy, rate = figure.axes
    titles = ["Training loss", "Test loss", "Test accuracy", "Effective learning rate"]
    assert [axes.get_title() for axes in figure.axes] == titles
    good, cross, bad, target = lines(loss)
    assert good == [[10, 3.0], [20, 0.75]]
    assert cross == [[10, 8.0]]
    assert bad == [[10, 6.0], [20, 2.0]]
    assert [y for _, y in target] == [2.5, 2.5]
    band = loss.collections[0].get_paths()[0].vertices
    assert (10, 4.0) in map(tuple, band)
    assert (20, 0.5) in map(tuple, band)
    assert lines(accuracy)[0] == pytest.approx(np.array([[10, 0.7], [20, 0.7]]))
    assert len(test_loss.lines) == 3
    assert rate.texts[0].get_text() == "no method has one"


def test_profiles_step_up_at_the_ratios(results):
    # The means of two lines are 2.5 and 1.25 for good, 3 for bad: only good has a time.
    steps, seconds = draw_profiles(results).axes
    for axes in (steps, seconds):
        good, bad = lines(axes)
        assert good == [[1, 1.0], [1, 1.0], [4, 1.0]]
        assert bad == [[1, 0.0], [4, 0.0]]


def test_many_methods_can_be_told_apart():
    styles = line_styles([str(index) for index in range(40)])
    pairs = {(style["color"], style["linestyle"]) for style in styles.values()}
    assert len(pairs) == 40
    assert len(line_styles([str(index) for index in range(45)])) == 45


def test_two_pictures_on_a_page_do_not_share_names(results):
    texts = [to_svg(draw_curves(results, TASK)) for _ in range(2)]
    assert all(text.startswith("<svg ") for text in texts)
    clips = [
        {part.split('"')[0] for part in text.split('<clipPath id="')[1:]}
        for text in texts
    ]
    assert not set.intersection(*clips)
    assert all(itertools.chain(clips))
