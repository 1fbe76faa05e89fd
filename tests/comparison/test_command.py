import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.commands import _compare as _command
from hpfree_jax.commands._compare import run_compare
from hpfree_jax.comparison._compare import Comparison

TINY = [
    *("--models", "fcn:depth=2,width=8", "--methods", "adam", "prodigy"),
    *("--steps=4", "--log-every=2", "--evaluate-every=4"),
    *("--seeds=1", "--batch-size=256"),
]


def test_a_comparison_prints_its_leaderboard_and_files(tmp_path, capsys):
    directory = str(tmp_path / "out")
    assert run_compare([*TINY, "--output-dir", directory]) == 0
    said = capsys.readouterr().out
    assert "runs: 2 made, 0 found" in said
    assert "digits/fcn:depth=2,width=8: target" in said
    assert f"report: {directory}/report.html" in said
    for label in ("adam", "prodigy"):
        assert label in said


def test_an_interrupted_one_says_how_to_continue(tmp_path, capsys, monkeypatch):
    stopped = lambda config: Comparison(tmp_path / "new one", None, 1, 0)
    monkeypatch.setattr(_command, "compare", stopped)
    assert run_compare(["--seeds", "2"]) == 130
    said = capsys.readouterr().out
    assert f"hpfree compare --seeds 2 --output-dir '{tmp_path}/new one'" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--methods adm", "unknown method 'adm'.*did you mean 'adam'"),
        ("--seed 3", "did you mean --seeds"),
        ("--steps many", "invalid int value|many"),
    ],
)
def test_a_bad_option_is_one_line(args, message):
    with pytest.raises(UserError, match=message):
        run_compare(args.split())
