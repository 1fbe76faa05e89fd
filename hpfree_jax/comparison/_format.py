"""Numbers as the terminal and the report show them."""

import math
import statistics
from collections.abc import Sequence


def number(value: float | None) -> str:
    """Three digits that count; a dash for what there is not.

    >>> number(0.012345), number(1234.5), number(math.inf)
    ('0.0123', '1,234', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds.

    >>> spread([0.5, 0.7])
    '0.6 ± 0.14'
    """
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        return number(values[0] if values else None)
    return f"{number(statistics.fmean(values))} ± {statistics.stdev(values):.2g}"


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares, in percent.

    >>> percent([0.95, 0.97])
    '96.0 ± 1.4'
    """
    values = [100 * value for value in values if math.isfinite(value)]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds.

    >>> milliseconds(0.00123)
    '1.23'
    """
    return number(1000 * seconds)
