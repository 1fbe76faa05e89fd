from pathlib import Path

from hpfree_jax.cli import main
from hpfree_jax.commands._listings import run_models
from hpfree_jax.models import MODELS

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def test_every_model_is_listed_with_parameters_and_source(capsys):
    assert run_models([]) == 0
    _, _, _, *lines, _ = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    for line, row in zip(lines, MODELS.values(), strict=True):
        assert f"{row.parameters:,}" in line
        assert row.reference in line


def test_the_documentation_has_the_table_of_the_command(capsys):
    assert run_models(["--markdown"]) == 0
    table = capsys.readouterr().out
    assert f"<!-- table -->\n{table}<!-- end of table -->" in DOCS.read_text()
    assert "| `gpt2` | 124,439,808 |" in table


def test_an_unknown_option_is_one_line(capsys):
    assert main(["models", "--markdwn"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hpfree: error: Unrecognized options: --markdwn")
    assert error.count("\n") == 1
