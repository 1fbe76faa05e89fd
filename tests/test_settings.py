import pytest

from hpfree_jax._settings import Setting, as_settings, choose
from hpfree_jax.methods import METHODS, Method, method_settings
from hpfree_jax.models import MODELS

ROWS = {"model": MODELS, "method": METHODS}


@pytest.mark.parametrize("table", ROWS.values(), ids=ROWS)
def test_every_setting_of_a_row_says_what_it_is(table):
    settings = [dict(row.settings) for row in table.values()]
    settings += [
        inner for row in METHODS.values() for inner in map(dict, row.inners.values())
    ]
    found = {(name, s) for row in settings for name, s in row.items()}
    for name, setting in found:
        assert isinstance(setting, Setting), name
        assert setting.help.endswith("."), name
        assert setting.default is None or isinstance(setting.default, setting.type)
        setting.check(name, setting.default)


def test_a_plain_value_is_a_default_of_its_type():
    row = Method(lambda length, scale: None, {"scale": 2.0}, "default", "mine")
    assert row.settings_with() == {"scale": Setting(2.0, type=float)}
    assert row.defaults == {"scale": 2.0}


def test_the_inner_optimizer_brings_its_settings():
    row = METHODS["autowu"]
    assert row.settings_with()["inner"].choices == ("adamw", "adam", "nadamw", "sgd")
    assert "weight_decay" in row.settings_with()
    assert "momentum" in row.settings_with("sgd")
    assert method_settings("autowu", {"inner": "sgd"})["momentum"] == 0.9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 0}, "model x: `depth` must be at least 1, got 0"),
        ({"rule": "addditive"}, "model x: unknown rule 'addditive' .did you mean"),
        ({"width": 3}, "`width` 3 does not apply to model x, which takes `depth`, `ru"),
    ],
)
def test_a_value_that_is_not_taken_is_named(given, message):
    rows = {
        "depth": Setting(4, minimum=1),
        "rule": Setting(None, choices=("additive",)),
    }
    assert choose("model x", {"depth": 2}, as_settings(rows))["depth"] == 2
    with pytest.raises(ValueError, match=message):
        choose("model x", given, rows)
