"""A dataset, a model and a method of a user's own, without a change to the package."""

import pytest

from hpfree_jax.cli import main
from hpfree_jax.comparison import CompareConfig, compare
from hpfree_jax.data import DATASETS, open_dataset, register_dataset
from hpfree_jax.methods import METHODS, method_settings, register_method
from hpfree_jax.models import MODELS, abstract_model, register_model
from hpfree_jax.training import TrainConfig, train
from tests.user_rows import register_rows

TABLES = {"stripes": DATASETS, "two_layers": MODELS, "sign_descent": METHODS}


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    for name, table in TABLES.items():
        monkeypatch.delitem(table, name, raising=False)  # restored: without the name
    register_rows()
    yield
    for name, table in TABLES.items():
        table.pop(name, None)


def test_rows_of_a_user_are_trained(tmp_path):
    config = TrainConfig(
        model="two_layers",
        dataset="stripes",
        method="sign_descent",
        epochs=10,
        batch_size=16,
        output_dir=tmp_path / "run",
    )
    result = train(config)
    assert result.step == 40
    assert result.test_accuracy == 1.0


def test_rows_of_a_user_are_compared(tmp_path):
    compare(
        CompareConfig(
            models=("two_layers",),
            datasets=("stripes",),
            methods=("sign_descent:learning_rate=0.02", "sgd"),
            steps=4,
            batch_size=16,
            seeds=1,
            output_dir=tmp_path / "comparison",
        )
    )
    assert "sign_descent" in (tmp_path / "comparison" / "report.html").read_text()


@pytest.mark.parametrize(
    "args",
    [["models"], ["datasets"], ["architecture", "--model=two_layers"]],
    ids=lambda args: args[0],
)
def test_commands_find_rows_of_a_user(args, capsys):
    if args[0] == "architecture":
        args = [*args, "--dataset=stripes"]
    assert main(args) == 0
    name = {"models": "two_layers", "datasets": "stripes"}.get(args[0], "first")
    assert name in capsys.readouterr().out


def test_settings_of_a_user_are_read_from_the_row():
    assert method_settings("sign_descent", {"decay": 0.1})["decay"] == 0.1
    model = abstract_model("two_layers", (4, 4, 1), 2, {"hidden": 3})
    assert model.first.kernel.shape == (16, 3)
    assert open_dataset("stripes").hold_out(0.25, 0)[1].labels.shape == (16,)


@pytest.mark.parametrize(
    ("register", "name", "row", "message"),
    [
        (register_model, "fcn", MODELS["fcn"], "there is a model fcn already"),
        (register_dataset, "digits", DATASETS["digits"], "a dataset digits already"),
        (register_method, "agd", METHODS["agd"], "there is a method agd already"),
        (register_model, "mine", METHODS["agd"], "registered as a Model, got a Method"),
        (register_method, "a:b", METHODS["agd"], "the name of a method must .* 'a:b'"),
        (register_dataset, "no/folder", DATASETS["digits"], "name of a dataset must"),
    ],
)
def test_what_cannot_be_registered_is_named(register, name, row, message):
    with pytest.raises(ValueError, match=message):
        register(name, row)
