"""Performance profiles: how often a method is within a factor of the best time."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

MAX_FACTOR = 4.0  # upper end of the integral that is the score, as in AlgoPerf


def performance_ratios(
    times: Mapping[str, Sequence[float]],
) -> dict[str, list[float]]:
    r"""Time of each method on each task over the best time of any method on it.

    .. math:: r_{m,t} = \tau_{m,t} / \min_{m'} \tau_{m',t}

    Args:
      times: for each method, the time to target on each task in the same order;
        infinite where the target was not reached.

    Returns:
      The ratios, at least 1; infinite where the method did not reach the target.

    Raises:
      ValueError: if methods have different numbers of tasks, or a time is not above 0.

    References:
      Dolan and Moré, `Benchmarking optimization software with performance profiles
      <https://arxiv.org/abs/cs/0102001>`_, 2002.

    >>> performance_ratios({"a": [10.0, 30.0], "b": [20.0, math.inf]})
    {'a': [1.0, 1.0], 'b': [2.0, inf]}
    """
    if len({len(row) for row in times.values()}) > 1:
        raise ValueError("`times` must have as many tasks for each method.")
    for name, row in times.items():
        if not all(time > 0 for time in row):
            raise ValueError(f"`times` of {name} must be above 0, got {list(row)}.")
    best = [min(column) for column in zip(*times.values(), strict=True)]
    return {
        name: [
            time / least if math.isfinite(time) else math.inf
            for time, least in zip(row, best, strict=True)
        ]
        for name, row in times.items()
    }


def share_within(ratios: Sequence[float], factor: float) -> float:
    r"""The fraction of tasks on which a method is within a factor of the best.

    .. math:: \rho_m(\tau) = |\{t : r_{m,t} \le \tau\}| / |\{t\}|

    >>> share_within([1.0, 2.0, math.inf], 2.0)
    0.6666666666666666
    """
    return float(np.mean([ratio <= factor for ratio in ratios]))


def profile_score(ratios: Sequence[float], max_factor: float = MAX_FACTOR) -> float:
    r"""The area under the profile, over factors from 1 to :math:`\bar\tau`; in [0, 1].

    .. math:: \frac1{\bar\tau - 1} \int_1^{\bar\tau} \rho_m(\tau)\,d\tau

    Each task contributes the part of the interval that lies above its ratio.

    References:
      Dahl et al., `Benchmarking Neural Network Training Algorithms
      <https://arxiv.org/abs/2306.07179>`_, 2023, section 4.

    >>> profile_score([1.0, 2.5, math.inf], 4.0)
    0.5
    """
    parts = [max(0.0, max_factor - ratio) / (max_factor - 1) for ratio in ratios]
    return float(np.mean(parts))
