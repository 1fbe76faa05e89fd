import cv2
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
    green = picture[..., 1] > picture[..., 0].astype(int) + 60
    assert green.any() == bool(lines)  # the line of the learning rate
