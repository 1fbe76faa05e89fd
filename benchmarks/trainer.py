"""Time of ``hpfree train`` on MNIST beside that of its bare training steps.

    python benchmarks/trainer.py --data-dir ~/tensorflow_datasets [--epochs 10]

The bare steps are a jitted, donated step on one batch that never changes, run before
and after the trainer in the same process. Three ratios to them are printed: of the
steps inside the loop (batches and metrics included), of the loop (compilation,
evaluations and checkpoints, too), and of the whole run (reading the data and drawing
the curves, too).
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

from training_step import BATCH, DEPTH, WIDTH, make_jax_step

import hpfree_jax as hp
from hpfree_jax.training import TrainConfig, train
from hpfree_jax.training._session import Session


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
        loop_seconds = []

        loop = Session._train

        def timed_loop(*args):
            begin = time.perf_counter()
            result = loop(*args)
            loop_seconds.append(time.perf_counter() - begin)
            return result

        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(Session, "_train", timed_loop),
        ):
            result = train(config)
    steps = result.step * BATCH / (result.images_per_second or float("nan"))
    bare = statistics.mean([before, bare_step_seconds()]) * result.step
    milliseconds = 1e3 * bare / result.step
    print(f"bare steps  {bare:6.1f} s ({result.step} of {milliseconds:.2f} ms)")
    for name, seconds in (
        ("steps", steps),
        ("loop", loop_seconds[0]),
        ("whole run", result.seconds),
    ):
        print(f"{name:<11} {seconds:6.1f} s, {seconds / bare:.2f}x")


if __name__ == "__main__":
    main()
