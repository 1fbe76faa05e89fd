import dataclasses
import json
from pathlib import Path

import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison import CompareConfig
from hpfree_jax.training.engine import Intervals

WHERE = Path("runs/mine")


def stored(**changes):
    return json.loads(json.dumps(CompareConfig(**changes).plan().to_json()))


def test_models_datasets_and_methods_are_crossed():
    config = CompareConfig(
        methods=("agd", "adam", "adam"), models=("fcn:depth=2", "lenet5"),
        datasets=("digits", "mnist"), seeds=2, steps=70,
    )  # fmt: skip
    plan = config.plan()
    assert [task.name for task in plan.tasks] == [
        *("digits/fcn:depth=2", "digits/lenet5", "mnist/fcn:depth=2", "mnist/lenet5")
    ]
    assert [method.label for method in plan.methods] == ["agd", "adam"]
    assert plan.tasks[0].model_settings == {"depth": 2}
    assert len(list(plan.groups())) == 8
    assert plan.intervals(plan.tasks[0]) == Intervals(70, 1, 5)


def test_a_run_that_two_methods_share_is_made_once():
    rates = (1e-3, 1e-2)
    plan = CompareConfig(methods=("adam",), grid=("adam",), grid_rates=rates).plan()
    assert len(plan.methods) == 2
    variants = [variant for _, variant in plan.groups()]
    assert [v.settings["learning_rate"] for v in variants] == [1e-3, 1e-2]
    task, (plain, tuned) = plan.tasks[0], plan.methods
    first, second = (
        plan.file(WHERE, task, method, 0).path
        for method in (plain, tuned.variants()[0])
    )
    assert first == second


def test_every_run_has_a_file_of_its_own():
    config = CompareConfig(methods=("adam", "adamw"), grid=("sgd",), seeds=3)
    plan = dataclasses.replace(config, models=("fcn", "fcn:depth=2")).plan()
    files = [
        plan.file(WHERE, task, variant, seed).path
        for task, variant in plan.groups()
        for seed in plan.seeds
    ]
    assert len(set(files)) == len(files) == 2 * 7 * 3


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"methods": ("adam", "agd", "prodigy", "sgd:learning_rate=0.3")},
        {"seeds": 5},
        {"datasets": ("digits", "mnist")},
        {"grid": ("adam",)},
        {"target": 0.1, "parallel": "never", "table": "parquet"},
        {"grid_choice": "validation"},
    ],
)
def test_a_comparison_can_be_continued_and_added_to(more):
    before = {"methods": ("agd", "adam"), "seeds": 3}
    CompareConfig(**{**before, **more}).plan().check_continues(stored(**before), WHERE)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"steps": 100}, "`tasks.digits/fcn.steps` is 500 there and 100 here"),
        ({"batch_size": 32}, "`tasks.digits/fcn.batch_size` is 64 there and 32 here"),
        ({"loss": "square"}, '.loss` is "cross_entropy" there and "square" here'),
        ({"seeds": 2}, "`seeds.2` is true there and nothing here"),
        ({"methods": ("adam",)}, "`methods.agd` is .* there and nothing here"),
        ({"init": "agd"}, '`methods.adam.0.init` is "default" there and "agd" here'),
        ({"validation_fraction": 0.2}, "held_out` is 0.0 there and 0.2 here"),
        ({"log_every": 5}, "`log_every` is nothing there and 5 here"),
        ({"models": ("fcn:depth=2",)}, "`tasks.digits/fcn` is .* and nothing here"),
    ],
)
def test_another_comparison_is_refused_by_what_differs(changes, difference):
    before = {"methods": ("agd", "adam"), "seeds": 3}
    plan = CompareConfig(**{**before, **changes}).plan()
    with pytest.raises(UserError, match=difference) as error:
        plan.check_continues(stored(**before), WHERE)
    assert "`output_dir` runs/mine holds another comparison" in str(error.value)


def test_a_setting_is_not_added_to_a_task_that_was_run():
    before = CompareConfig().plan()
    (task,) = before.tasks
    deeper = dataclasses.replace(task, model_settings={"depth": 8})
    after = dataclasses.replace(before, tasks=(deeper,))
    with pytest.raises(
        UserError, match=r"model_settings.depth` is nothing there and 8"
    ):
        after.check_continues(before.to_json(), WHERE)


def test_tasks_need_different_names():
    (task,) = CompareConfig().plan().tasks
    renamed = dataclasses.replace(task, name="digits-fcn")  # the same directory
    with pytest.raises(UserError, match="different names, got digits/fcn, digits-fcn"):
        CompareConfig().plan([task, renamed])
    with pytest.raises(UserError, match="there are no tasks"):
        CompareConfig().plan([])


def test_other_rates_in_a_grid_are_another_comparison():
    before = stored(methods=(), grid=("adam",))
    plan = CompareConfig(methods=(), grid=("adam",), grid_rates=(0.1,)).plan()
    with pytest.raises(UserError, match=r"best of 5` is .* and nothing here"):
        plan.check_continues(before, WHERE)
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 2e-2)
    plan = CompareConfig(methods=(), grid=("adam",), grid_rates=rates).plan()
    with pytest.raises(UserError, match=r"best of 5.4.settings.learning_rate` is 0.01"):
        plan.check_continues(before, WHERE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ("mnis",)}, r"unknown dataset 'mnis' \(did you mean 'mnist'"),
        ({"models": ("fnc",)}, r"unknown model 'fnc' \(did you mean 'fcn'"),
        ({"loss": "sqare"}, r"unknown loss 'sqare' \(did you mean 'square'"),
        ({"init": "adg"}, r"unknown init 'adg' \(did you mean 'agd'"),
        ({"parallel": "no"}, "unknown parallel 'no'.*; choose one of auto, always"),
        ({"table": "xlsx"}, "unknown table 'xlsx'; choose one of csv, parquet"),
        ({"seeds": 0}, "`seeds` must be at least 1, got 0"),
        ({"steps": -5}, "`steps` must be at least 1, got -5"),
        ({"methods": ()}, "no method is named; give some to --methods or --grid"),
        ({"models": ()}, "`models` is empty; give at least one"),
        ({"grid_rates": (0.0,)}, "`grid_rates` must be above 0, got 0.0"),
        ({"grid_rates": (0.1, 0.1)}, "`grid_rates` holds a rate twice"),
        ({"target": float("nan")}, "`target` must be a finite loss, got nan"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must lie in .*got 1.0"),
        ({"grid_choice": "test"}, "unknown grid_choice 'test'; choose one of train, v"),
        (
            {"grid": ("adam",), "grid_choice": "validation"},
            "validation: nothing is held out for adam, best of 5 .*validation_fraction",
        ),
        (
            {"suite": "no-tuning", "grid_choice": "validation"},
            "`grid_choice` validation does not go with `suite` no-tuning",
        ),
        ({"evaluate_every": 15}, "`evaluate_every` 15 must be a multiple of `log_ev"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        CompareConfig(**changes).plan()
