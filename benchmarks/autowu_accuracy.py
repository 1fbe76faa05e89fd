"""AutoWU, nothing chosen, against AdamW with warm-up and cosine at five rates.

    python benchmarks/autowu_accuracy.py --data-dir DIR [--seeds 0 1 ...]

Runs ``hpfree train`` on MNIST and CIFAR-10 with batches of 128, 1024 and 4096: AutoWU
at its defaults, and AdamW with 5 % warm-up and a cosine at each rate of the grid. Every
run is stored in benchmarks/autowu_accuracy.json as it ends, and not run again; delete
the file to start anew. Prints the table of docs/autowu.md from what is stored.
"""

import argparse
import json
import statistics
from pathlib import Path

from accuracy import run

RESULTS = Path(__file__).with_suffix(".json")

TASKS = {
    "MNIST, FCN 4 x 256": "--dataset mnist --model fcn --depth 4 --width 256 "
    "--epochs 20",
    "CIFAR-10, FCN 4 x 256": "--dataset cifar10 --model fcn --depth 4 --width 256 "
    "--epochs 20",
}
BATCH_SIZES = (128, 1024, 4096)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SHARED = "--loss cross_entropy --evaluate-every 20 --checkpoint-every 20"
AUTOWU = "--method autowu"


def adamw(rate: float) -> str:
    """The flags of the baseline at one peak rate."""
    return (
        f"--method adamw --schedule cosine --warmup-fraction 0.05 "
        f"--learning-rate {rate:g}"
    )


def main():
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Accuracy of AutoWU and AdamW")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", choices=("adamw", "autowu"))
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = {"adamw": [adamw(rate) for rate in RATES], "autowu": [AUTOWU]}
    for seed in options.seeds:
        for method in options.methods or wanted:
            for task in TASKS.values():
                for batch_size in BATCH_SIZES:
                    for flags in wanted[method]:
                        arguments = command(task, batch_size, flags, seed)
                        if arguments not in results:
                            results[arguments] = run(arguments, options.data_dir)
                            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print_table(results, options.seeds)


def command(task: str, batch_size: int, flags: str, seed: int) -> str:
    """The arguments of ``hpfree train`` of one run."""
    return f"{task} --batch-size {batch_size} {SHARED} {flags} --seed {seed}"


def print_table(results: dict[str, dict], seeds: list[int]) -> None:
    """Prints mean test accuracies over the seeds, in Markdown."""
    columns = ["task", "batch", "AutoWU", "AdamW 1e-3", "AdamW, best", "its rate"]
    print(f"| {' | '.join([*columns, 'AutoWU - best'])} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, task in TASKS.items():
        for batch_size in BATCH_SIZES:
            cells = {
                flags: [
                    100 * results[arguments]["test_accuracy"]
                    for seed in seeds
                    if (arguments := command(task, batch_size, flags, seed)) in results
                ]
                for flags in (AUTOWU, *map(adamw, RATES))
            }
            if min(map(len, cells.values())) < len(seeds):
                print(f"| {name} | {batch_size} | not all of its runs are stored |")
                continue
            means = {flags: statistics.fmean(cell) for flags, cell in cells.items()}
            best = max(RATES, key=lambda rate: means[adamw(rate)])
            row = [name, str(batch_size)]
            for flags in (AUTOWU, adamw(1e-3), adamw(best)):
                spread = max(cells[flags]) - min(cells[flags])
                row.append(f"{means[flags]:.2f} ({spread:.2f})")
            difference = means[AUTOWU] - means[adamw(best)]
            print(f"| {' | '.join(row)} | {best:g} | {difference:+.2f} |")
    print("\nTest accuracy in %, mean over seeds (largest minus smallest).")


if __name__ == "__main__":
    main()
