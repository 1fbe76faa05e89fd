"""Performance profiles, by hand: two tasks, three methods."""

import math

import pytest

from hpfree_jax.comparison import performance_ratios, profile_score, share_within

INF = math.inf
# Best times: 10 on the first task, 40 on the second; nobody solves the third.
TIMES = {"a": [10, 100, INF], "b": [20, 40, INF], "c": [INF, 60, INF]}
RATIOS = {"a": [1, 2.5, INF], "b": [2, 1, INF], "c": [INF, 1.5, INF]}


def test_ratios_are_times_over_the_best():
    assert performance_ratios(TIMES) == RATIOS


@pytest.mark.parametrize(
    ("name", "factor", "share"),
    [
        *(("a", 1, 1 / 3), ("a", 2.4999, 1 / 3), ("a", 2.5, 2 / 3), ("a", 1e9, 2 / 3)),
        *(("b", 1, 1 / 3), ("b", 2, 2 / 3), ("c", 1, 0), ("c", 1.5, 1 / 3)),
    ],
)
def test_share_counts_every_task_and_includes_the_factor_itself(name, factor, share):
    assert share_within(RATIOS[name], factor) == pytest.approx(share)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        # 1/3 on [1, 2.5), then 2/3 on [2.5, 4): (1.5/3 + 1.5 * 2/3) / 3
        ("a", 0.5),
        # 1/3 on [1, 2), then 2/3 on [2, 4): (1/3 + 4/3) / 3
        ("b", 5 / 9),
        # 0 on [1, 1.5), then 1/3 on [1.5, 4): (2.5/3) / 3
        ("c", 2.5 / 9),
    ],
)
def test_score_is_the_area_under_the_profile(name, score):
    assert profile_score(RATIOS[name], 4) == pytest.approx(score)


def test_score_is_the_integral_of_the_share():
    ratios, points = RATIOS["b"], 30_000
    factors = [1 + 3 * (index + 0.5) / points for index in range(points)]
    area = sum(share_within(ratios, factor) for factor in factors) / points
    assert profile_score(ratios, 4) == pytest.approx(area, abs=1e-4)


def test_units_of_time_do_not_matter():
    milliseconds = {name: [1000 * time for time in row] for name, row in TIMES.items()}
    assert performance_ratios(milliseconds) == RATIOS


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_time_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="`times` of b must be above 0"):
        performance_ratios({"a": [1.0], "b": [bad]})


def test_methods_need_the_same_tasks():
    with pytest.raises(ValueError, match="as many tasks"):
        performance_ratios({"a": [1.0], "b": [1.0, 2.0]})
