"""``hpfree compare``: from command-line arguments to a comparison and an exit code."""

import shlex

from hpfree_jax._table import print_tables
from hpfree_jax.commands import ExitCode
from hpfree_jax.commands._arguments import parse_config
from hpfree_jax.comparison import CompareConfig, compare, comparison_tables

# The options by title, for the help text.
GROUPS = {
    "method": ("methods", "grid", "grid_rates", "grid_choice", "init"),
    "task": (
        *("suite", "models", "datasets", "steps", "batch_size", "loss"),
        *("validation_fraction", "data_dir"),
    ),
    "run": (
        *("seeds", "parallel", "target", "log_every", "evaluate_every", "table"),
        "output_dir",
    ),
}


def run_compare(args: list[str]) -> int:
    """Compares as the arguments say; returns the exit code.

    Raises:
      UserError: for everything that the user can mend.
    """
    config: CompareConfig = parse_config("compare", args, CompareConfig, GROUPS)
    result = compare(config)
    if result.summary is None:
        rest = args
        if config.output_dir is None:
            rest = [*args, "--output-dir", str(result.directory)]
        print("stopped; what was finished is kept; to continue:")
        print(f"  hpfree compare {shlex.join(rest)}", flush=True)
        return ExitCode.INTERRUPTED
    print(f"runs: {result.runs_made} made, {result.runs_found} found")
    print_tables(comparison_tables(result.summary, config.suite is not None))
    print(f"table: {result.directory / f'results.{config.table}'}")
    print(f"report: {result.directory / 'report.html'}")
    return ExitCode.DONE
