import jax
import numpy as np
import pytest

from hpfree_jax.training._state import prepare
from hpfree_jax.training._steps import make_validation_order


def rows(images, labels):
    return sorted(zip(map(bytes, images), labels.tolist(), strict=True))


def test_the_training_data_is_divided_and_the_test_data_stays(digits):
    rest, held_out = digits.hold_out(0.1, seed=3)
    assert len(held_out.labels) == 144  # of 1,438
    both = rows(rest.train_images, rest.train_labels) + rows(*held_out)
    assert sorted(both) == rows(digits.train_images, digits.train_labels)
    assert rest.test_images is digits.test_images
    assert rest.test_labels is digits.test_labels
    np.testing.assert_array_equal(rest.mean, digits.mean)
    # All classes are about as frequent as before: it is a draw, not a block.
    assert np.bincount(held_out.labels, minlength=10).min() >= 5


def test_the_seed_alone_chooses(digits):
    one, again, other = (digits.hold_out(0.1, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.images, again.images)
    assert np.any(one.images != other.images)
    jitted = []  # as where only the shapes of a run are asked for
    jax.eval_shape(lambda: jitted.append(digits.hold_out(0.1, 0)[1]))
    np.testing.assert_array_equal(one.images, jitted[0].images)


def test_nothing_is_held_out_by_default(digits):
    assert digits.hold_out(0, seed=0) == (digits, None)


@pytest.mark.parametrize("fraction", [1e-5, 0.9999])
def test_a_share_without_an_example_is_named(digits, fraction):
    with pytest.raises(ValueError, match=r"`validation_fraction` .* holds out"):
        digits.hold_out(fraction, seed=0)


@pytest.mark.parametrize("batch_size", [64, 40])
def test_passes_over_the_held_out_data_ignore_the_epochs(config, digits, batch_size):
    """Written out from the orders of ten epochs: 2 or 3 batches in a pass of 144."""
    task, _ = prepare(config(method="marthe", batch_size=batch_size), digits)
    order = make_validation_order(task)
    stream = np.concatenate([order(epoch) for epoch in range(10)])
    assert len(stream) == 10 * (1294 // batch_size) * batch_size
    in_pass = 144 // batch_size * batch_size
    passes = [stream[i : i + in_pass] for i in range(0, len(stream), in_pass)]
    for one in passes:
        assert len(np.unique(one)) == len(one)
    assert len({bytes(one) for one in passes}) == len(passes)
    assert set(stream.tolist()) == set(range(144))
    other, _ = prepare(config(method="marthe", batch_size=batch_size, seed=1), digits)
    assert np.any(np.asarray(make_validation_order(other)(0)) != np.asarray(order(0)))
