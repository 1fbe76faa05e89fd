"""Time of a training step of Adam for one seed, and for three at once by ``jax.vmap``.

    python benchmarks/vmap_seeds.py fcn:width=64 fcn fcn:width=1024 lenet5

This decides what ``hpfree compare --parallel auto`` does on a CPU. Both kinds take
turns and the smallest of their times counts, since other programs only add to them.
"""

import sys

from hpfree_jax.comparison import TaskSpec
from hpfree_jax.comparison._compare import load_datasets
from hpfree_jax.comparison._runner import Runner
from hpfree_jax.comparison._specs import parse_method, parse_model
from hpfree_jax.models import MODELS
from hpfree_jax.training.engine import Intervals

SEEDS, STEPS, TURNS = (0, 1, 2), 40, 4


def measure(text: str) -> tuple[float, float]:
    """Seconds of a step of one seed, by itself and as one of three."""
    model, settings = parse_model(text)
    data = "tiny_shakespeare" if MODELS[model].takes_tokens else "digits"
    task = TaskSpec("steps", data, model, settings, 64, STEPS, "cross_entropy")
    dataset = load_datasets([task])["steps"]
    runner = Runner(task, parse_method("adam"), dataset, Intervals(STEPS, 2, STEPS))

    def seconds(seeds):
        return runner.run(seeds, [{}] * len(seeds))[0].seconds_per_step

    turns = [(seconds(SEEDS[:1]), seconds(SEEDS)) for _ in range(TURNS)]
    one, at_once = map(min, zip(*turns, strict=True))
    return one, at_once


if __name__ == "__main__":
    for text in sys.argv[1:]:
        one, at_once = measure(text)
        print(
            f"{text}: {1e3 * one:.2f} ms by itself, {1e3 * at_once:.2f} ms as one of "
            f"three ({one / at_once:.2f}x)",
            flush=True,
        )
