"""The example runs, and what it claims holds on a short run."""

import pytest


@pytest.mark.slow
def test_the_example_runs():
    from examples.autowu import STEPS_PER_EPOCH, main

    accuracies, schedule = main(num_epochs=20)
    assert schedule.count == 20 * STEPS_PER_EPOCH
    assert 1e-5 < schedule.best_learning_rate < 1
    assert accuracies["AutoWU"] > accuracies["Adam at 0.0001"]
    assert accuracies["AutoWU"] > accuracies["Adam at 1"]
