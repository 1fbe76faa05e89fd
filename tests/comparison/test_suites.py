"""Named sets of tasks, from the command to the page of the documentation."""

import dataclasses
import json

import jax
import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.commands._compare import run_compare
from hpfree_jax.comparison import CompareConfig, TaskSpec
from hpfree_jax.comparison._suites import NO_TUNING, SUITES
from hpfree_jax.models import MODELS, abstract_model
from hpfree_jax.training._model_config import MODEL_SETTINGS, check_kind
from hpfree_jax.training.engine import machine, now

from .leaderboard import script
from .records import record

TINY = (
    TaskSpec("one", "digits", "fcn", {"depth": 1}, 256, 4, "cross_entropy", 2),
    TaskSpec("two", "digits", "fcn", {"depth": 2, "width": 8}, 128, 4, "square", 1),
)
TUNED = "adam:schedule=cosine, best of 2"
ARGS = [
    *("--suite", "tiny", "--methods", "adamw", "sgd:learning_rate=1e30"),
    *("--grid", "adam:schedule=cosine", "--grid-rates", "1e-3", "1e-1"),
    *("--seeds=1", "--parallel=never"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory with runs of three methods on two tasks, none of them really made."""
    directory = tmp_path_factory.mktemp("suite") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "tiny", TINY)
        config = CompareConfig(
            suite="tiny", methods=("adamw", "sgd:learning_rate=1e30"), seeds=1,
            grid=("adam:schedule=cosine",), grid_rates=(1e-3, 1e-1),
        )  # fmt: skip
        plan = config.plan()
        for place, (task, variant) in enumerate(plan.groups()):
            diverges = variant.method == "sgd"
            every = plan.intervals(task).evaluate_every
            losses = [2.0 - place / 10 - step / 100 for step in range(every, 5, every)]
            made = record(
                losses[:1] if diverges else losses,
                every=every,
                accuracy=0.5 + place / 100,
                diverged_at=2 if diverges else None,
            )
            identity = plan.identity(task, variant, 0)
            made = dataclasses.replace(
                made, run=identity, machine={"when": now(), **machine()}
            )
            plan.file(directory, task, variant, 0).write(made)
        plan_file = {"plan": plan.to_json(), "sessions": []}
        (directory / "plan.json").write_text(json.dumps(plan_file))
    return directory


def test_the_leaderboard_is_printed(finished, capsys, monkeypatch):
    monkeypatch.setitem(SUITES, "tiny", TINY)
    assert run_compare([*ARGS, "--output-dir", str(finished)]) == 0
    said = capsys.readouterr().out
    assert "runs: 0 made, 8 found" in said
    for text in ("mean rank", "one, %", TUNED, "1 of 1 failed", "steps to target"):
        assert text in said


def test_runs_are_found_with_their_method_and_rate(finished):
    found = list(script.find_runs(finished, TINY))
    assert len(found) == 8
    keys = {(run.task, run.method, run.learning_rate) for run in found}
    assert {key[1:] for key in keys if key[0] == "two"} == {
        ("adamw", None), ("sgd:learning_rate=1e30", None), (TUNED, 1e-3), (TUNED, 0.1),
    }  # fmt: skip
    (bad,) = (run for run in found if run.task == "two" and "sgd" in run.method)
    assert (bad.diverged_at, bad.test_accuracy, bad.steps_to_target) == (2, None, None)


def test_a_task_has_its_own_intervals_where_the_comparison_has_none(monkeypatch):
    monkeypatch.setitem(SUITES, "tiny", TINY)
    plan = CompareConfig(suite="tiny").plan()
    assert [plan.intervals(task).evaluate_every for task in plan.tasks] == [2, 1]
    plan = CompareConfig(suite="tiny", evaluate_every=4).plan()
    assert [plan.intervals(task).evaluate_every for task in plan.tasks] == [4, 4]


def test_runs_of_another_version_of_the_suite_are_refused(finished):
    with pytest.raises(SystemExit, match=r"is of another task one: .*make it again"):
        list(script.find_runs(finished, [dataclasses.replace(TINY[0], steps=5)]))
    with pytest.raises(SystemExit, match="holds no comparison that can be read"):
        list(script.find_runs(finished / "runs", TINY))


def test_collected_runs_are_timed_to_the_tuned_adam(finished, monkeypatch):
    monkeypatch.setattr(script, "TASKS", TINY)
    found = list(script.find_runs(finished, TINY))
    runs = script.merge([], [*found, *found])  # a run of two directories is one
    assert len(runs) == 8
    targets = script.suite_results(runs, TINY).targets
    for run in found:
        (row,) = (row for row in runs if row.key == run.key)
        expected = run.record.steps_to(targets[run.task].loss)
        assert row.steps_to_target == (expected if expected < 100 else None)
    # Without the tuned Adam among the new ones its earlier runs set the target,
    part = [run for run in found if run.method == "adamw"]
    assert sorted(script.merge(runs, part), key=repr) == sorted(runs, key=repr)
    # and with another one those whose curves are not at hand cannot be timed.
    tuned = [run for run in found if run.method == TUNED]
    for run in tuned:
        run.record.train["loss"][:] = [loss + 1 for loss in run.record.train["loss"]]
    with pytest.raises(SystemExit, match="training loss on one is another"):
        script.merge(runs, tuned)


def test_steps_are_timed_by_task_and_method(finished, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "TASKS", TINY)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(script, "TIMES", tmp_path / "step_times.csv")
    script.write_runs(
        script.RESULTS, script.merge([], list(script.find_runs(finished, TINY)))
    )
    script.time_steps(rounds=3)
    times = script.read_times({"adamw", "sgd:learning_rate=1e30", TUNED})
    assert set(times) == {
        (task.name, name)
        for task in TINY
        for name in ("adamw", "sgd:learning_rate=1e30", TUNED)
    }
    assert {times[task.name, "adamw"] for task in TINY} == {1.0}
    assert all(ratio > 0 for ratio in times.values())


def test_the_page_is_made_from_the_data():
    assert script.PAGE.read_text() == script.render(script.read_runs(script.RESULTS))


@pytest.mark.parametrize("task", NO_TUNING, ids=lambda task: task.name)
def test_every_task_of_the_suite_can_be_built(task):
    check_kind(task.model, task.dataset)
    shapes = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
    shape = shapes.get(task.dataset, (task.model_settings.get("context"),))
    classes = 65 if task.is_text else 10
    model = abstract_model(task.model, shape, classes, task.model_settings)
    assert jax.tree.leaves(model)
    every = task.steps // 50
    assert task.evaluate_every % every == task.steps % every == 0


def test_the_trainer_has_an_option_for_every_setting_of_a_model():
    settings = {name for row in MODELS.values() for name in row.settings}
    assert settings <= set(MODEL_SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "no-tunig"}, r"unknown suite 'no-tunig' \(did you mean 'no-tuning'"),
        ({"models": ("fcn",)}, "`models` does not go with `suite` no-tuning"),
        ({"datasets": ("digits",)}, "`datasets` does not go with `suite` no-tuning"),
        ({"steps": 500}, "`steps` does not go with `suite` no-tuning, which has its"),
        ({"batch_size": 64}, "`batch_size` does not go with `suite` no-tuning"),
        ({"loss": "square"}, "`loss` does not go with `suite` no-tuning"),
    ],
)
def test_what_does_not_go_with_a_suite_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        CompareConfig(**{"suite": "no-tuning", **changes}).plan()
