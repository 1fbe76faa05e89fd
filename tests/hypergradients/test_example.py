"""The example runs, and what it claims holds on a short run."""

import numpy as np
import pytest


@pytest.mark.slow
def test_the_example_runs():
    from examples.hypergradients import STARTS, main

    accuracies = main(num_steps=40)
    assert set(accuracies) == {
        (method, start) for method in ("constant", "HD", "MARTHE") for start in STARTS
    }
    assert np.all(np.isfinite(list(accuracies.values())))
    # From a rate that is too low, both methods get further than the rate itself.
    low = STARTS[0]
    assert accuracies["HD", low] > accuracies["constant", low]
    assert accuracies["MARTHE", low] > accuracies["constant", low]
