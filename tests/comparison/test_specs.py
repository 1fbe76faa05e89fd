import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._specs import parse_method, parse_model


def test_settings_take_the_type_of_their_default():
    assert parse_model("dag_mlp:dag=2_02_002,width=16,bias=false") == (
        "dag_mlp",
        {"dag": "2_02_002", "width": 16, "bias": False},
    )
    spec = parse_method("adam:learning-rate=1,schedule=cosine")
    assert spec.settings["learning_rate"] == 1.0
    assert spec.chosen == ("learning_rate", "schedule")


def test_sgd_is_plain_and_nadamw_warms_up_unless_told_otherwise():
    assert parse_method("sgd").settings["momentum"] == 0.0
    assert parse_method("sgd:momentum=0.5").settings["momentum"] == 0.5
    momentum = parse_method("momentum")
    assert (momentum.method, momentum.settings["momentum"]) == ("sgd", 0.9)
    nadamw = parse_method("nadamw").settings
    assert (nadamw["schedule"], nadamw["warmup_fraction"]) == ("cosine", 0.05)


def test_a_method_inside_another_takes_the_settings_of_both():
    settings = parse_method("hd:inner=adamw,weight_decay=0.1").settings
    assert (settings["inner"], settings["weight_decay"]) == ("adamw", 0.1)
    assert parse_method("mechanize:inner=sgd").settings["inner"] == "sgd"


def test_a_grid_has_a_variant_for_each_rate():
    spec = parse_method("adam:schedule=cosine", grid=(1e-3, 1e-2))
    assert spec.label == "adam:schedule=cosine, best of 2"
    assert [v.settings["learning_rate"] for v in spec.variants()] == [1e-3, 1e-2]
    assert {v.settings["schedule"] for v in spec.variants()} == {"cosine"}


@pytest.mark.parametrize(
    ("text", "grid", "message"),
    [
        ("adm", (), r"unknown method 'adm' \(did you mean 'adam' or .*\); choose"),
        ("agd:learning_rate=1", (), "`learning_rate` 1 does not apply to method agd"),
        ("adam:learning_rate", (), "'learning_rate' is no setting; write NAME:KEY"),
        ("adam:learning_rate=big", (), "`learning_rate` must be like 0.001, got 'big'"),
        ("agd", (0.1,), "method agd has no learning rate to choose"),
        ("adam:learning_rate=1", (0.1,), "sets the learning rate that is to be chosen"),
    ],
)
def test_what_cannot_be_is_named(text, grid, message):
    with pytest.raises(UserError, match=message):
        parse_method(text, grid=grid)


@pytest.mark.parametrize(
    ("text", "default"),
    [("fcn:depth=2.5", "4"), ("fcn:bias=2", "False"), ("fcn:width=true", "256")],
)
def test_a_value_of_another_kind_is_named(text, default):
    with pytest.raises(UserError, match=f"must be like {default}, got"):
        parse_model(text)


def test_a_default_that_says_nothing_takes_what_it_looks_like():
    settings = parse_method("marthe:discount=1,rule=additive").settings
    assert (settings["discount"], settings["rule"]) == (1, "additive")


def test_an_unknown_model_or_setting_is_named():
    with pytest.raises(UserError, match=r"unknown model 'fnc' \(did you mean 'fcn'"):
        parse_model("fnc:depth=2")
    with pytest.raises(UserError, match="`dept` 2 does not apply to model fcn"):
        parse_model("fcn:dept=2")
