"""``hpfree compare``: from command-line arguments to a comparison and an exit code."""

import shlex

from hpfree_jax.commands._arguments import parse_arguments
from hpfree_jax.comparison._compare import compare
from hpfree_jax.comparison._config import CompareConfig
from hpfree_jax.comparison._results import Results, tuned_adam_target
from hpfree_jax.comparison._tables import Table, leaderboard, score_table, task_table

PROGRAM = "hpfree compare"
INTERRUPTED = 130


def run_compare(args: list[str]) -> int:
    """Compares as the arguments say; returns the exit code.

    Raises:
      UserError: for everything that the user can mend.
    """
    config = parse_arguments(args, CompareConfig(), PROGRAM)
    result = compare(config)
    if result.summary is None:
        rest = args
        if config.output_dir is None:
            rest = [*args, "--output-dir", str(result.directory)]
        print("stopped; what was finished is kept; to continue:")
        print(f"  {PROGRAM} {shlex.join(rest)}", flush=True)
        return INTERRUPTED
    print(f"runs: {result.runs_made} made, {result.runs_found} found")
    print_tables(_tables(result.summary, is_suite=config.suite is not None))
    print(f"table: {result.directory / f'results.{config.table}'}")
    print(f"report: {result.directory / 'report.html'}")
    return 0


def _tables(results: Results, is_suite: bool) -> list[Table]:
    if is_suite:
        results = Results(
            results.plan, results.read, target=tuned_adam_target, grid_choice="test"
        )
        return leaderboard(results)
    tables = [task_table(results, task) for task in results.plan.tasks]
    return [*tables, score_table(results)] if len(tables) > 1 else tables


def print_tables(tables: list[Table]) -> None:
    """Prints tables, as wide as a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    for table in tables:
        console.print(_rich(table))


def _rich(table: Table):
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, heading in enumerate(table.headings):
        shown.add_column(heading, justify="right" if index else "left")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
