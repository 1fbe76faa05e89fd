"""The leaderboard of a suite, from runs made up by hand."""

import dataclasses
import json
import math
import statistics

import pytest

from hpfree_jax.comparison import TaskSpec
from hpfree_jax.comparison._standings import Standings, geometric_mean
from hpfree_jax.comparison._standings_tables import (
    final_scores,
    find_marks,
    leaderboard,
    marks_by_task,
    marks_met,
    speeds,
    steps_by_task,
)
from hpfree_jax.comparison._suite_runs import SuiteRun, read_runs, write_runs

IMAGES = TaskSpec("images", "digits", "fcn", {}, 64, 100, "cross_entropy")
TEXT = TaskSpec("text", "tiny_shakespeare", "gpt_char", {}, 8, 200, "cross_entropy")
TASKS = (IMAGES, TEXT)
TUNED = "adam:schedule=cosine, best of 2"


def run(
    task, method, score, seed=0, *, rate=None, loss=1.0, steps_to=None, seconds=0.1
):
    """A row; a score of None is that of a run that diverged."""
    name = method.partition(":")[0]
    settings = {"schedule": "cosine"} if "cosine" in method else {}
    failed = score is None
    return SuiteRun(
        task.name, method, name, json.dumps(settings), "default", rate, seed,
        7 if failed else None, None if failed or task.is_text else score,
        (score if task.is_text else 1.0) if not failed else None,
        None if failed else loss, task.steps, steps_to, seconds, 1,
        "2026-01-01 00:00:00+00:00", "cpu", "here", "jax 0",
    )  # fmt: skip


RUNS = [
    # The tuned Adam: 1e-2 has the better test score and the worse training loss.
    run(IMAGES, TUNED, 0.90, 0, rate=1e-2, loss=0.5, steps_to=100),
    run(IMAGES, TUNED, 0.94, 1, rate=1e-2, loss=0.7),
    run(IMAGES, TUNED, 0.91, 0, rate=1e-3, loss=0.1),
    run(IMAGES, TUNED, 0.91, 1, rate=1e-3, loss=0.1),
    run(TEXT, TUNED, 2.0, 0, rate=1e-2, loss=1.8),
    run(TEXT, TUNED, 2.2, 1, rate=1e-2, loss=1.9),
    # 1e-3 would be better, but one of its seeds failed.
    run(TEXT, TUNED, 1.0, 0, rate=1e-3, loss=0.9),
    run(TEXT, TUNED, None, 1, rate=1e-3),
    run(IMAGES, "good", 0.93, 0, steps_to=40, seconds=0.3),
    run(IMAGES, "good", 0.95, 1, steps_to=60, seconds=0.3),
    run(TEXT, "good", 2.3, 0, steps_to=200, seconds=0.2),
    run(TEXT, "good", 2.5, 1, seconds=0.2),
    run(IMAGES, "adamw", 0.80, 0, steps_to=100),
    run(IMAGES, "adamw", 0.82, 1, steps_to=100),
    run(TEXT, "adamw", None, 0),
    run(TEXT, "adamw", 1.0, 1, steps_to=50),
]


@pytest.fixture
def standings():
    return Standings(RUNS, TASKS)


def test_a_grid_is_chosen_by_the_test_score_of_the_rates_that_fail_least(standings):
    assert standings.reference == TUNED
    rates = [standings.outcome(task, TUNED).runs[0].learning_rate for task in TASKS]
    assert rates == [1e-2, 1e-2]
    # Their training losses, .5 and .7, 1.8 and 1.9: half of the seeds get there.
    assert [standings.target(task) for task in TASKS] == [0.7, 1.9]


def test_ranks_are_by_mean_score_and_failures_come_last(standings):
    # images: good .94, tuned .92, adamw .81; text, losses: tuned 2.1, good 2.4, and
    # adamw with the lowest loss of all, of the one seed that did not fail.
    assert {name: standings.mean_rank(name) for name in standings.methods} == {
        "good": 1.5, TUNED: 1.5, "adamw": 3.0,
    }  # fmt: skip
    table = final_scores(standings)
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.headings[2:4] == ["images, %", "text, loss"]
    assert rows["good"] == ("1.5", "94.0 ± 1.4", "2.4 ± 0.14", "0")
    assert rows["adamw"] == ("3.0", "81.0 ± 1.4", "1; 1 of 2 failed", "1")


def test_equal_methods_share_their_ranks():
    runs = [run(IMAGES, name, 0.5) for name in ("a", "b")]
    standings = Standings([*runs, run(IMAGES, "c", 0.4)], TASKS)
    assert [standings.mean_rank(name) for name in ("a", "b", "c")] == [1.5, 1.5, 3]


def test_steps_and_times_are_over_those_of_the_tuned_adam_and_adamw(standings):
    good, text = (standings.outcome(task, "good") for task in TASKS)
    assert (good.steps_ratio, text.steps_ratio) == (0.5, math.inf)  # 1 of 2 seeds
    assert standings.time_ratio(IMAGES, "good") == pytest.approx(3)
    rows = {row[0]: row[1:] for row in speeds(standings).rows}
    # Geometric means: of the steps .5 alone, of the times 3 and 2.
    assert rows["good"] == ("0.5", "1 of 2", "2.45", "1.5")
    rows = {row[0]: row[1:] for row in steps_by_task(standings).rows}
    assert rows["good"] == ("0.5", "-")
    assert geometric_mean([0.5, 2.0, math.inf]) == 1


def test_times_that_were_taken_in_turns_replace_those_of_the_runs():
    times = {(IMAGES.name, "good"): 5.0, (TEXT.name, "good"): 0.2}
    standings = Standings(RUNS, TASKS, times)
    rows = {row[0]: row[1:] for row in speeds(standings).rows}
    assert rows["good"] == ("0.5", "1 of 2", "1", "2.5")
    assert rows[TUNED][2:] == ("-", "-")  # which was not timed


def test_marks_are_differences_with_standard_errors(standings):
    marks = find_marks(standings, IMAGES, "good")
    assert (marks.met_tuned, marks.met_other, marks.met_steps) == (True, True, True)
    assert marks.tuned.value == pytest.approx(0.02)
    variances = (statistics.variance([0.93, 0.95]), statistics.variance([0.90, 0.94]))
    expected = math.sqrt(variances[0] / 2 + variances[1] / 2)
    assert marks.tuned.standard_error == pytest.approx(expected)
    marks = find_marks(standings, TEXT, "good")
    assert marks.tuned.value == pytest.approx(-0.3)  # a loss that is higher is worse
    assert (marks.met_tuned, marks.met_steps) == (False, False)
    # A failed seed misses all, whatever the others reached.
    marks = find_marks(standings, TEXT, "adamw")
    assert (marks.met_tuned, marks.met_other, marks.met_steps) == (False,) * 3
    assert marks.tuned.value == pytest.approx(1.1)
    assert {row[0]: row[1:] for row in marks_met(standings).rows} == {
        "good": ("1 of 2", "2 of 2", "1 of 2"), "adamw": ("0 of 2",) * 3,
    }  # fmt: skip
    row = marks_by_task(standings, "good").rows[0]
    assert row[2] == f"+2.00 ± {100 * expected:.2f}: met"
    assert row[3].endswith(": met, adamw")


def test_a_method_that_is_better_but_fails_is_no_rival(standings):
    assert standings.best_other(TEXT, "adamw").runs[0].method == "good"
    assert standings.best_other(TEXT, "good").num_failed == 1
    assert find_marks(standings, TEXT, "good").met_other


def test_what_is_not_there_is_shown_and_not_ranked():
    runs = [*RUNS, run(IMAGES, "late", 0.99)]
    standings = Standings(runs, TASKS)
    assert standings.methods[-1] == "late"
    rows = {row[0]: row[1:] for row in final_scores(standings).rows}
    assert rows["late"] == ("-", "99.0", "not run", "0")
    assert all(table.rows for table in leaderboard(standings))
    assert len(leaderboard(standings)) == 5
    # Without the tuned Adam there is no target, nor a mark about it.
    alone = Standings([run for run in RUNS if run.method != TUNED], TASKS)
    assert alone.reference is alone.target(IMAGES) is None
    assert find_marks(alone, IMAGES, "good").met_steps is None
    assert len(leaderboard(alone)) == 1


@pytest.mark.parametrize(
    ("losses", "target"),
    [((1.0, None), None), ((1.0, None, 2.0), 2.0), ((3.0, 1.0, 1.5), 1.5)],
)
def test_a_failed_seed_of_the_tuned_adam_counts_as_never(losses, target):
    rows = [
        run(TEXT, TUNED, loss and 2.0, seed, rate=1e-2, loss=loss)
        for seed, loss in enumerate(losses)
    ]
    assert Standings(rows, TASKS).target(TEXT) == target


def test_rows_survive_their_file(tmp_path):
    write_runs(tmp_path / "runs.csv", reversed(RUNS))
    found = read_runs(tmp_path / "runs.csv")
    assert sorted(found, key=lambda run: run.key) == found
    as_set = lambda runs: {dataclasses.astuple(run) for run in runs}
    assert as_set(found) == as_set(RUNS)
