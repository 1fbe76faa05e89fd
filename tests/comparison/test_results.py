import importlib.util
import math
import sys

import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._results import Result, Results, baseline_target
from hpfree_jax.comparison._rows import check_format, rows, table_bytes
from hpfree_jax.comparison._tables import grid_table, score_table, task_table

from .records import TASK, method, plan, record


def result(spec, *finals, diverged=()):
    records = [record([loss]) for loss in finals]
    records += [record([3.0], diverged_at=15) for _ in diverged]
    return Result(TASK, spec, spec, records, {})


def test_the_target_is_what_adam_ends_at():
    results = [result(method("a", "agd"), 1.0), result(method("b"), 2.0)]
    assert baseline_target(results).loss == 2.0
    assert baseline_target(results).source == "b"


def test_a_tuned_baseline_goes_before_an_untuned_one_and_adam_before_adamw():
    results = [
        result(method("adamw", "adamw", grid=(1e-3,)), 3.0),
        result(method("adam"), 2.0),
        result(method("adam, best of 1", grid=(1e-3,)), 1.0),
    ]
    assert baseline_target(results).source == "adam, best of 1"
    assert baseline_target(results[:2]).source == "adam"
    assert baseline_target(results[:1]).source == "adamw"


def test_without_a_baseline_the_median_of_those_that_finished_counts():
    results = [result(method(str(x), "agd"), x) for x in (0.1, 0.7, 0.2)]
    results.append(result(method("bad", "agd"), diverged=[1]))
    assert baseline_target(results).loss == 0.2
    # A baseline that diverged sets no target.
    results.append(result(method("adam"), diverged=[1]))
    assert baseline_target(results).loss == 0.2


def test_when_all_diverge_nobody_reaches_anything():
    results = [result(method("adam"), diverged=[1])]
    target = baseline_target(results)
    assert results[0].steps_to(target.loss) == math.inf


@pytest.mark.parametrize(
    "finals", [(1.0,), (1.0, 2.0), (1.0, 2.0, 3.0), (4.0, 1.0, 3.0, 2.0)]
)
def test_a_baseline_reaches_its_own_target(finals):
    baseline = result(method("adam"), *finals)
    assert baseline.steps_to(baseline_target([baseline]).loss) == 10


def test_times_are_medians_over_the_seeds():
    records = [
        record([3.0, 0.0], seconds=1.0),  # reaches 1.5 at step 20, after 20 s
        record([1.0, 1.0], seconds=4.0),  # at step 10, after 40 s
        record([3.0, 2.0], seconds=1.0),  # never
    ]
    spec = method("adam")
    own = Result(TASK, spec, spec, records, {})
    assert own.steps_to(1.5) == 20
    assert own.seconds_to(1.5) == 40
    assert own.seconds_per_step == 1.0
    assert own.steps_to(0.5) == math.inf


def test_a_grid_takes_the_lowest_mean_loss_among_the_rates_that_diverge_least():
    rates = (1e-4, 1e-3, 1e-2)
    runs = {
        1e-4: [record([2.0]), record([2.2])],
        1e-3: [record([1.0], accuracy=0.1), record([2.0], accuracy=0.1)],
        1e-2: [record([0.1]), record([0.1], diverged_at=12)],
    }
    tuned = method("adam, best of 3", grid=rates)
    read = lambda task, variant: runs[variant.settings["learning_rate"]]
    summary = Results(plan(tuned, num_seeds=2), read)
    own = summary.result(TASK, tuned)
    assert own.chosen.settings["learning_rate"] == 1e-3
    assert own.grid_losses == {1e-4: 2.1, 1e-3: 1.5, 1e-2: math.inf}


def test_a_grid_can_be_chosen_by_what_is_held_out():
    runs = {
        1e-3: [record([2.0], validation=1.0), record([2.0], validation=3.0)],
        1e-2: [record([1.0], validation=2.0), record([1.0], validation=2.5)],
    }
    tuned = method("adam, best of 2", grid=(1e-3, 1e-2))
    read = lambda task, variant: runs[variant.settings["learning_rate"]]
    by_train, by_validation = (
        Results(plan(tuned, num_seeds=2), read, grid_choice=choice)
        for choice in ("train", "validation")
    )
    rate = lambda s: s.result(TASK, tuned).chosen.settings["learning_rate"]
    assert (rate(by_train), rate(by_validation)) == (1e-2, 1e-3)
    assert by_validation.result(TASK, tuned).grid_losses == {1e-3: 2.0, 1e-2: 2.25}
    table = grid_table(by_validation, tuned)
    assert table.title == "Final validation loss of adam, best of 2"
    assert table.rows == [("toy", "2 *", "2.25")]
    table = [row["loss"] for row in rows(by_validation) if row["split"] == "validation"]
    assert table == [1.0, 3.0]
    runs[1e-3][0] = record([2.0])  # as an earlier version kept it
    with pytest.raises(UserError, match="are of a version that kept no validation"):
        Results(plan(tuned, num_seeds=2), read, grid_choice="validation")


def test_without_pyarrow_there_is_csv_and_parquet_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_format("csv")
    with pytest.raises(UserError, match=r"`table` parquet needs .*pip install .*csv$"):
        check_format("parquet")
    spec = method("adam", "adam")
    results = Results(plan(spec), lambda task, variant: [record([0.25], seconds=1e-7)])
    head, *lines = table_bytes(results, "csv").decode().splitlines()
    assert head.startswith('"task","dataset","model","batch_size","method",')
    run = '"toy","digits","fcn",64,"adam","{}","default",1,0,"finished"'
    metrics = ("train", "test")
    assert lines == [f'{run},"{split}",10,0.000001,0.25,0.5,' for split in metrics]


def test_tables_show_divergence_and_order_by_loss():
    specs = [method("good", "agd"), method("bad", "agd"), method("best", "agd")]
    runs = {
        "good": [record([1.5, 0.5], accuracy=0.9)],
        "bad": [record([], diverged_at=3)],
        "best": [record([0.25, 0.25], accuracy=0.8)],
    }
    summary = Results(
        plan(*specs), lambda task, variant: runs[variant.label], target=1.0
    )
    table = task_table(summary, TASK)
    assert table.title == "toy: target 1, from --target"
    assert [row[0] for row in table.rows] == ["best", "good", "bad"]
    assert table.rows[0][1:6] == ("0.25", "0.25", "80.0", "10", "1")
    assert table.rows[2][1:6] == ("-",) * 5
    assert [row[-1] for row in table.rows] == ["0 of 1", "0 of 1", "1 of 1"]
    # best: ratio 1; good: 20 steps to 10, (4 - 2) / (4 - 1); bad: never.
    assert score_table(summary).rows == [
        ("best", "1.000", "1.000", "1 of 1"),
        ("good", "0.667", "0.667", "1 of 1"),
        ("bad", "0.000", "0.000", "0 of 1"),
    ]
