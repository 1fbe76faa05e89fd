"""Timing several functions in turns within one run, which is how they are compared.

The speed of a machine drifts; functions that take turns drift together, so that ratios
within a round, and their median over the rounds, are steady where times are not.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    calls: int | Mapping[str, int] = 1,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Times functions that take turns.

    Args:
      runs: the functions, by name. Each returns when its work is done
        (``jax.block_until_ready``).
      rounds: turns of each function that count.
      calls: calls in a turn, of all or of each.
      warmup: turns before these, in which the functions compile.

    Returns:
      Seconds per call in each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            number = calls if isinstance(calls, int) else calls[name]
            start = time.perf_counter()
            for _ in range(number):
                run()
            if turn >= warmup:
                seconds[name].append((time.perf_counter() - start) / number)
    return seconds


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of the ratio of two functions' times."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))
