"""Time of ``hpfree train`` on MNIST beside that of its bare training steps.

    python benchmarks/trainer.py --data-dir ../shared/tfds [--epochs 10]

The bare steps are a jitted, donated step on one batch that never changes, run before
and after the trainer in the same process. Two ratios to them are printed: of the loop
(batches, metrics, evaluations and checkpoints included) and of the whole run (reading
the data, compiling and drawing the curves, too).
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

from training_step import BATCH, DEPTH, WIDTH, make_jax_step

import hpfree_jax as hp
from hpfree_jax.training import TrainConfig, train


def bare_step_seconds(num_steps: int = 1000) -> float:
    """Seconds of one step."""
    run = make_jax_step(hp.agd())
    run()
    begin = time.perf_counter()
    for _ in range(num_steps):
        run()
    return (time.perf_counter() - begin) / num_steps


def main():
    """Runs the benchmark and prints its ratios."""
    parser = argparse.ArgumentParser(description="The trainer's overhead")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    before = bare_step_seconds()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            dataset="mnist",
            depth=DEPTH,
            width=WIDTH,
            batch_size=BATCH,
            epochs=options.epochs,
            data_dir=options.data_dir,
            output_dir=Path(folder) / "run",
        )
        with contextlib.redirect_stdout(io.StringIO()):
            result = train(config)
    bare = statistics.mean([before, bare_step_seconds()]) * result.step
    print(f"bare steps  {bare:6.1f} s ({result.step} of {1e3 * bare / result.step:.2f} ms)")
    for name, seconds in (("loop", result.loop_seconds), ("whole run", result.seconds)):
        print(f"{name:<11} {seconds:6.1f} s, {seconds / bare:.2f}x")


if __name__ == "__main__":
    main()
