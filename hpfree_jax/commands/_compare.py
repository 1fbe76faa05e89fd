"""``hpfree compare``: from command-line arguments to a comparison and an exit code."""

import shlex

from hpfree_jax._table import Table, print_tables
from hpfree_jax.commands import ExitCode
from hpfree_jax.commands._arguments import parse_arguments
from hpfree_jax.comparison._compare import compare
from hpfree_jax.comparison._config import CompareConfig
from hpfree_jax.comparison._results import Summary
from hpfree_jax.comparison._standings import Standings, timed_runs
from hpfree_jax.comparison._standings_tables import leaderboard
from hpfree_jax.comparison._suite_runs import find_runs
from hpfree_jax.comparison._suites import SUITES
from hpfree_jax.comparison._tables import score_table, task_table

PROGRAM = "hpfree compare"


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
        return ExitCode.INTERRUPTED
    print(f"runs: {result.runs_made} made, {result.runs_found} found")
    if config.suite is None:
        tables = _tables(result.summary)
    else:
        tasks = SUITES[config.suite]
        found = list(find_runs(result.directory, tasks))
        tables = leaderboard(Standings(timed_runs(found, tasks), tasks))
    print_tables(tables)
    print(f"table: {result.directory / f'results.{config.table}'}")
    print(f"report: {result.directory / 'report.html'}")
    return ExitCode.DONE


def _tables(summary: Summary) -> list[Table]:
    tables = [task_table(summary, task) for task in summary.plan.tasks]
    return [*tables, score_table(summary)] if len(tables) > 1 else tables
