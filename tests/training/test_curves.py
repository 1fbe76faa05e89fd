import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from hpfree_jax._plots import draw_metric
from hpfree_jax.training import METHODS
from hpfree_jax.training._curves import plot_curves

TRAIN = {"step": 1, "loss": 1.0, "accuracy": 0.1, "learning_rate": 0.3}
TEST = {"step": 1, "test_loss": 0.9, "test_accuracy": 0.2}


@pytest.mark.parametrize(
    "lines", [[], [TRAIN], [TRAIN, TEST, {**TRAIN, "step": 2}, {**TEST, "step": 2}]]
)
def test_runs_of_every_length_can_be_drawn(tmp_path, lines):
    plot_curves(lines, tmp_path / "curves.png", "title")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape == (510, 1650, 3)
    blue, green, red = picture.astype(int).transpose(2, 0, 1)
    is_green = green > np.maximum(blue, red) + 60
    assert is_green.any() == bool(lines)  # the line of the learning rate


HYPER = {"hypergradient": -2.0, "discount": 0.5, "hyper_learning_rate": 0.05}


def test_what_moves_gets_a_panel(tmp_path):
    lines = [{**TRAIN, **HYPER, "step": step} for step in (1, 2)]
    panels = METHODS["marthe"].panels
    assert not panels([], None)
    assert not panels(lines, None)
    lines[1] |= {"hypergradient": 3.0, "discount": 0.6}
    found = panels([*lines, {**TEST, "validation_loss": 1.0}], None)
    assert list(found) == ["Hypergradient", "Discount"]
    evaluated = {**TEST, "validation_loss": 0.8, "validation_accuracy": 0.3}
    plot_curves([*lines, evaluated], tmp_path / "curves.png", "title", found)
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape == (1020, 1650, 3)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.1, 0.2], "linear"),
        ([0.1, 0.5], "log"),
        ([0.0, 0.5], "linear"),
        ([-1.0, 0.5], "symlog"),
        ([0.0, 0.0], "linear"),
        ([], "linear"),
    ],
)
def test_the_scale_suits_the_values(values, scale):
    axes = Figure().subplots()
    lines = [{"step": step, "rate": value} for step, value in enumerate(values)]
    draw_metric(axes, lines, "rate")
    assert axes.get_yscale() == scale
    axes = Figure().subplots()
    draw_metric(axes, lines, "rate", may_be_logarithmic=False)
    assert axes.get_yscale() == "linear"
