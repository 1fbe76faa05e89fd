"""``hpfree models``: the table of models, for people and for the documentation."""

import argparse
from collections.abc import Sequence

from hpfree_jax.models._registry import MODELS, Model

PROGRAM = "hpfree models"
COLUMNS = ("name", "parameters", "for", "source", "settings")


def run_models(args: Sequence[str] = ()) -> int:
    """Prints the table; ``--markdown`` prints it as in the documentation."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Lists the networks: name, parameters, source, settings.",
        allow_abbrev=False,
    )
    parser.add_argument("--markdown", action="store_true", help="as in docs/models.md")
    if parser.parse_args(args).markdown:
        print(models_markdown())
    else:
        _print_table()
    return 0


def models_markdown() -> str:
    """The table of models in Markdown.

    >>> print(models_markdown().splitlines()[2])
    | `fcn` | 920,064 | 32x32x3, 10 classes | ... | depth 4, width 256, no bias |
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---:" + "|---" * 3 + "|"]
    for name, row in MODELS.items():
        lines.append("| " + " | ".join([f"`{name}`", *_cells(row)]) + " |")
    return "\n".join(lines)


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        is_number = column == "parameters"
        table.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=is_number or column == "name",
        )
    for name, row in MODELS.items():
        table.add_row(name, *_cells(row))
    console = Console(markup=False)
    if not console.is_terminal:  # a file has no width: one line for each model
        console = Console(markup=False, width=250)
    console.print(table)


def _cells(row: Model) -> list[str]:
    shape = "x".join(map(str, row.input_shape))
    unit, classes = (
        ("tokens", "in the vocabulary") if row.takes_tokens else ("", "classes")
    )
    data = f"{shape} {unit}".strip() + f", {row.num_classes:,} {classes}"
    settings = ", ".join(_setting(name, value) for name, value in row.defaults.items())
    return [f"{row.parameters:,}", data, row.reference, settings]


def _setting(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"
