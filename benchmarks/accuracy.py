"""Test accuracy of hp.auto and AGD beside AdamW with a cosine, at one setting each.

    python benchmarks/accuracy.py --data-dir DIR [--tasks digits-fcn ...]

Runs ``hpfree train`` for each line, stores the results in benchmarks/accuracy.json and
prints the table of docs/measurements.md. Lines already stored are not run again; delete
the file to start anew.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

from hpfree_jax.cli import main as hpfree

RESULTS = Path(__file__).with_suffix(".json")

TASKS = {
    "digits-fcn": "--dataset digits --model fcn",
    "mnist-fcn": "--dataset mnist --model fcn --depth 8 --width 256 --batch-size 128 "
    "--epochs 20",
    "mnist-lenet5": "--dataset mnist --model lenet5 --batch-size 128 --epochs 10",
    "cifar10-fcn": "--dataset cifar10 --model fcn --depth 2 --width 64 "
    "--batch-size 128 --epochs 200 --evaluate-every 10 --checkpoint-every 200",
}
METHODS = {
    "auto": "--method auto",
    "agd": "--method agd",
    "adamw": "--method adamw --schedule cosine",
    "adamw, cross-entropy": "--method adamw --schedule cosine --loss cross_entropy",
}


def run(arguments: str, data_dir: Path | None) -> dict:
    """Runs ``hpfree train`` and returns its summary."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        args = ["train", *arguments.split(), "--output-dir", str(output)]
        if data_dir is not None and "digits" not in arguments:
            args += ["--data-dir", str(data_dir)]
        with contextlib.redirect_stdout(io.StringIO()):
            code = hpfree(args)
        if code:
            raise SystemExit(code)
        return json.loads((output / "summary.json").read_text())


def main():
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Accuracy of hp.auto, AGD and AdamW")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in options.tasks:
        for method, flags in METHODS.items():
            arguments = f"{TASKS[task]} {flags}"
            if arguments not in results:
                results[arguments] = run(arguments, options.data_dir)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            summary = results[arguments]
            print(
                f"| {task} | {method} | {summary['test_accuracy']:.2%} | "
                f"{summary['loss']:.4f} | "
                f"`hpfree train {arguments}` |",
                flush=True,
            )


if __name__ == "__main__":
    main()
