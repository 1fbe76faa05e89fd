"""``hpfree bench`` prints what a step of each method costs."""

import pytest

from hpfree_jax.cli import main
from hpfree_jax.commands._bench import BenchConfig, bench

TINY = {"model": "fcn:depth=2,width=8", "dataset": "digits", "batch_size": 4}


def test_every_method_has_a_row_beside_adamw():
    table = bench(BenchConfig(methods=("agd", "adamw", "sgd"), rounds=3, **TINY))
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["adamw", "agd", "sgd"]
    assert rows["adamw"][1:3] == ("1.00", "1.00")
    assert all(float(row[0]) > 0 for row in rows.values())
    # Adam keeps two moments of 64 x 8 and 8 x 10 numbers, and two counts.
    assert float(rows["adamw"][3]) * 2**20 == pytest.approx(
        2 * 4 * (64 * 8 + 8 * 10), rel=0.02
    )
    assert float(rows["agd"][2]) < 1.2


@pytest.mark.slow
def test_a_text_is_timed_by_the_context_of_its_model(capsys):
    model = "gpt_char:depth=1,width=8,heads=2,context=8"
    assert not main(["bench", "--methods", "sgd", "--model", model, "--rounds", "2"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "on tiny_shakespeare, batch 128, 2 rounds" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "adan"], "adan"),
        (["--methods", "marthe"], "trains on held-out data too"),
        (["--model", "fcn:depht=2"], "depht"),
        (["--model", "fcn", "--dataset", "minst"], "minst"),
        (["--model", "fcn", "--dataset", "tiny_shakespeare"], "tiny_shakespeare"),
        (["--rounds", "0"], "`rounds`"),
    ],
)
def test_bad_options_are_one_line(args, message, capsys):
    assert main(["bench", *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hpfree: error: ")
    assert message in error
    assert error.count("\n") == 1
