import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.training import LOSSES, cross_entropy_loss, square_loss
from hpfree_jax.training._losses import is_correct

OUTPUTS = [[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 3.0]]
LABELS = [2, 3]


def test_square_loss_matches_a_hand_computation():
    # sqrt(4) = 2: (1 + 4 + 1.5^2 + 0) / 4 and (2 - 3)^2 / 4.
    loss = square_loss(jnp.array(OUTPUTS), jnp.array(LABELS))
    np.testing.assert_allclose(loss, [7.25 / 4, 0.25], rtol=1e-6)


def test_cross_entropy_matches_numpy():
    outputs = np.array(OUTPUTS)
    softmax = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    loss = cross_entropy_loss(jnp.array(OUTPUTS), jnp.array(LABELS))
    np.testing.assert_allclose(loss, -np.log(softmax[[0, 1], LABELS]), rtol=1e-5)


def test_accuracy_counts_the_largest_output():
    correct = is_correct(jnp.array(OUTPUTS), jnp.array(LABELS))
    np.testing.assert_array_equal(correct, [0, 1])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_precision_outputs_are_float32(name):
    outputs = jnp.array(OUTPUTS, jnp.bfloat16)
    loss = LOSSES[name](outputs, jnp.array(LABELS))
    assert loss.dtype == jnp.float32
    assert loss.shape == (2,)
