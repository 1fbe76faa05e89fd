import cv2
import numpy as np
import pytest

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
