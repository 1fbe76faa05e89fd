"""The options of a command come from the tables: ours, and what a user registers."""

import json
from typing import get_args

import pytest

from hpfree_jax._errors import UserError
from hpfree_jax._settings import Setting
from hpfree_jax.cli import main
from hpfree_jax.methods import METHODS, SCHEDULES
from hpfree_jax.models import MODELS
from hpfree_jax.training import LOSSES, TrainConfig
from hpfree_jax.training._config import INITS, METHOD_SETTINGS, Inner, Rule, Schedule
from hpfree_jax.training._losses import LossName
from hpfree_jax.training._model_config import MODEL_SETTINGS


@pytest.fixture
def help_of(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def help_of(*args):
        assert main([*args, "--help"]) == 0
        return capsys.readouterr().out

    return help_of


@pytest.fixture
def registered(monkeypatch):
    """A model and a method of a user's own, each with a setting of its own."""

    def build_model(input_shape, num_classes, *, units, **settings):
        return MODELS["fcn"].build(
            input_shape, num_classes, depth=2, width=units, bias=False, **settings
        )

    def build_method(length, *, step):
        return METHODS["sgd"].build(
            length,
            learning_rate=step,
            momentum=0.0,
            schedule="constant",
            warmup_fraction=0.0,
        )

    units = Setting(4, "Units of the hidden layer.", minimum=1)
    model = MODELS["fcn"]._replace(build=build_model, settings={"units": units})
    method = METHODS["sgd"]._replace(build=build_method, settings={"step": 0.5})
    monkeypatch.setitem(MODELS, "mine", model)
    monkeypatch.setitem(METHODS, "my_method", method)


def test_choices_for_type_checkers_are_those_of_the_tables():
    inners = {name for row in METHODS.values() for name in row.inners}
    assert get_args(LossName) == tuple(LOSSES)
    assert get_args(Schedule) == tuple(SCHEDULES)
    assert set(get_args(Inner)) == inners
    assert set(get_args(Rule)) == set(METHODS["hd"].settings["rule"].choices)
    assert set(INITS) >= {row.init for row in METHODS.values()}


def test_every_setting_of_the_tables_is_a_field():
    models = {name for row in MODELS.values() for name in row.settings}
    rows = [row.settings_with(i) for row in METHODS.values() for i in row.inners or [0]]
    assert models == set(MODEL_SETTINGS)
    assert {name for row in rows for name in row} == set(METHOD_SETTINGS)


def test_the_help_shows_the_options_of_the_chosen_model_and_method(help_of):
    text = help_of("train")
    assert "--depth" in text
    assert "--heads" not in text
    assert "--gain" not in text
    text = help_of("train", "--model=gpt_char", "--method", "agd")
    assert "--heads" in text
    assert "--gain" in text
    assert max(map(len, text.splitlines())) <= 80


def test_train_without_an_option_is_the_default_run(monkeypatch, capsys):
    def train(config, **_):
        raise UserError(f"{config == TrainConfig()}")

    monkeypatch.setattr("hpfree_jax.commands._train.train", train)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "hpfree: error: True\n"


def test_an_option_without_its_value_is_one_line(capsys):
    assert main(["train", "--model"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["train", "compare", "bench", "architecture", "models", "datasets"]
)
def test_every_command_explains_itself_in_80_columns(help_of, command):
    text = help_of(command)
    assert f"usage: hpfree {command} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "wrong", "right"),
    [
        ("train", "--datset", "--dataset"),
        ("compare", "--datsets", "--datasets"),
        ("bench", "--datset", "--dataset"),
        ("architecture", "--datset", "--dataset"),
        ("models", "--markdwn", "--markdown"),
        ("datasets", "--data-dri", "--data-dir"),
    ],
)
def test_an_unknown_option_is_one_line_with_a_suggestion(capsys, command, wrong, right):
    assert main([command, wrong]) == 2
    assert capsys.readouterr().err == (
        f"hpfree: error: Unrecognized options: {wrong} (did you mean "
        f"{right}?); hpfree {command} --help lists the options\n"
    )


def test_registered_rows_are_listed_and_have_their_options(
    registered, help_of, tmp_path
):
    text = help_of("train", "--model", "mine", "--method", "my_method")
    assert "--units INT" in text
    assert "--step FLOAT" in text
    assert "my_method" in text
    directory = tmp_path / "run"
    args = ["--model=mine", "--units=3", "--method=my_method", "--step=0.25"]
    args += ["--epochs=1", "--output-dir", str(directory)]
    assert main(["train", *args]) == 0
    stored = json.loads((directory / "config.json").read_text())["config"]
    assert stored["settings"] == {"units": 3, "step": 0.25}
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["num_params"] == 64 * 3 + 3 * 10
    assert main(["train", "--resume", str(directory), "--epochs=2"]) == 0


def test_settings_that_nothing_takes_are_refused(registered, capsys):
    config = TrainConfig(model="mine", settings={"units": 3, "colour": 1})
    with pytest.raises(ValueError, match=r"`colour` 1 .* does not apply to model mine"):
        config.check()
    assert main(["train", "--units=3"]) == 2
    assert "`units` 3 of `settings` does not" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`units` must be at least 1, got 0"):
        TrainConfig(model="mine", settings={"units": 0}).check()


def test_old_spellings_of_an_option_keep_working(capsys):
    for args in (["--bias=True"], ["--bias", "True"], ["--bias"]):
        assert main(["architecture", *args]) == 0
        assert "bias" in capsys.readouterr().out
    for args in (["--bias=False"], ["--no-bias"], ["--bias", "None"]):
        assert main(["architecture", "--width=7", *args]) == 0
        assert "bias" not in capsys.readouterr().out
