"""What hp.auto is made of, one piece changed at a time, judged on held-out data.

    python benchmarks/auto_recipe.py run --data-dir ~/tensorflow_datasets [VARIANT ...]
    python benchmarks/auto_recipe.py table

Each variant of the recipe trains the tasks of the no-tuning suite from three seeds that
the leaderboard does not use, with a tenth of the training data held out: the test data
take no part in choosing. So does Adam with the rate that the leaderboard chose for the
task. ``run`` adds to ``auto_recipe.json``, a result per variant, task and seed; what is
there is not run again. ``table`` prints the held-out score on each task against that of
the recipe as it is, with the standard error of the paired difference, and the steps to
Adam's final training loss over those of the task.
"""

import argparse
import dataclasses
import functools
import json
import math
import statistics
from pathlib import Path

import jax.numpy as jnp
import optax
from no_tuning import read_runs, suite_results

import hpfree_jax as hp
from hpfree_jax._auto import DECAY, MOMENTUM, RATE, READOUT, _ranks, _roles
from hpfree_jax._paths import map_with_name
from hpfree_jax.comparison._compare import load_datasets
from hpfree_jax.comparison._plan import Plan
from hpfree_jax.comparison._runner import Runner
from hpfree_jax.comparison._specs import MethodSpec, parse_method
from hpfree_jax.comparison._suites import SUITES
from hpfree_jax.methods._method import Method
from hpfree_jax.training import METHODS

RESULTS = Path(__file__).with_suffix(".json")
TASKS = {task.name: task for task in SUITES["no-tuning"]}
LEADERBOARD = RESULTS.with_name("no_tuning") / "results.csv"
REFERENCE = "adam"  # tuned for each task, with a cosine
SEEDS = (10, 11, 12)
HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class Variant:
    """The recipe; the defaults are those of hp.auto."""

    rate: float = RATE
    schedule: str = "linear"
    warmup: float = 0.0  # fraction of the steps
    momentum: float = MOMENTUM
    decay: float = DECAY
    decay_rule: str = "depth - 1"
    rank: float = 1.0  # times hp.auto's
    horizon: float = 1.0  # times the steps of the task
    readout: float = READOUT
    readout_decay: float = 1.0  # times the decay of the last layers
    schedule_free: bool = False  # in place of momentum; evaluated at the average

    def build(self, length, params, architecture):
        """The optimizer of a training, from public pieces."""
        steps = length.total_steps
        depth = max(architecture.mean_path_depth, 1.0)
        layout, tables = _roles(params, architecture)
        ranks = {
            path: int(self.rank * rank)
            for path, rank in _ranks(architecture, layout, tables).items()
        }
        layers = architecture.layers
        weights = {leaf.path for layer in layers for leaf in layer.leaves}
        readouts = {
            leaf.path
            for layer in layers
            if layer.readout_fan_in
            for leaf in layer.leaves
            if leaf.path not in tables
        }
        decay = self.decay * min(depth - (self.decay_rule == "depth - 1"), 10)
        mask = lambda paths: lambda tree: map_with_name(lambda n, _: n in paths, tree)
        chain = optax.chain(
            hp.scale_by_steepest_descent(
                layout,
                tables=tables,
                ranks=ranks,
                momentum=0.0 if self.schedule_free else self.momentum,
                nesterov=True,
            ),
            optax.masked(optax.scale(self.readout), mask(readouts)),
            *(
                optax.add_decayed_weights(factor * decay, mask=mask(paths))
                for factor, paths in (
                    (1.0, weights - readouts),
                    (self.readout_decay, readouts),
                )
            ),
            optax.inject_hyperparams(optax.scale_by_learning_rate)(
                functools.partial(self.learning_rate, steps, self.rate / depth)
            ),
        )
        if not self.schedule_free:
            return chain
        return optax.contrib.schedule_free(chain, self.rate / depth, self.momentum)

    def learning_rate(self, steps, peak, count):
        """The schedule."""
        t = count / steps
        factor = {
            "linear": lambda: 1 - t,
            "constant": lambda: jnp.ones_like(t),
            "cosine": lambda: (1 + jnp.cos(jnp.pi * t)) / 2,
        }[self.schedule]()
        if self.warmup:
            factor *= jnp.minimum(1, (count + 1) / (self.warmup * steps))
        return peak * factor


VARIANTS = {
    "auto": Variant(),
    "before, decay by D": Variant(decay_rule="depth", readout=1.0),
    "slower readout": Variant(readout=1.0),
    "readout with more decay": Variant(readout_decay=READOUT),
    "half the ranks": Variant(rank=0.5, readout_decay=READOUT),
    "cosine": Variant(schedule="cosine"),
    "warm-up 5 %": Variant(warmup=0.05),
    "momentum 0.95": Variant(momentum=0.95),
    "no decay": Variant(decay=0.0),
    "schedule-free": Variant(
        schedule="constant", schedule_free=True, readout_decay=READOUT
    ),
    "0.6 of the steps": Variant(horizon=0.6),
}


def method(name, task):
    """A variant, or Adam with the rate that the leaderboard chose for the task."""
    if name == REFERENCE:
        results = suite_results(read_runs(LEADERBOARD), SUITES["no-tuning"])
        assert results.reference is not None
        rate = results.result(task, results.reference).records[0].learning_rate
        spec = parse_method(f"adam:schedule=cosine,learning_rate={rate}")
        return dataclasses.replace(spec, validation_fraction=HELD_OUT)
    METHODS[name] = Method(
        VARIANTS[name].build,
        {},
        "default",
        "this benchmark",
        model_args=("params", "architecture"),
        evaluation_params=(
            optax.contrib.schedule_free_eval_params
            if VARIANTS[name].schedule_free
            else lambda opt_state, params: params
        ),
    )
    return MethodSpec(name, name, {}, validation_fraction=HELD_OUT)


def run(names, task_names, data_dir):
    """Trains what is missing, and writes after each task."""
    datasets = load_datasets([TASKS[name] for name in task_names], data_dir)
    for name in names:
        for task_name in task_names:
            results = read()
            kept = results.setdefault(name, {}).setdefault(task_name, {})
            seeds = [seed for seed in SEEDS if str(seed) not in kept]
            if not seeds:
                continue
            task, target = TASKS[task_name], None
            if name != REFERENCE:
                target = find_target(results, task_name)
                steps = round(task.steps * VARIANTS[name].horizon)
                task = dataclasses.replace(task, steps=steps, evaluate_every=steps)
            intervals = Plan((task,), (), 1).intervals(task)
            runner = Runner(
                task, method(name, TASKS[task_name]), datasets[task_name], intervals
            )
            groups = [seeds] if runner.gains_from_vmap() else [[s] for s in seeds]
            for group in groups:
                records = runner.run(group, [{}] * len(group))
                for seed, record in zip(group, records, strict=True):
                    kept[str(seed)] = summary(record, TASKS[task_name], target)
            results = read()
            results.setdefault(name, {})[task_name] = kept
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(name, task_name, kept, flush=True)


def read():
    """All results: by variant, task and seed."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def find_target(results, task_name):
    """The reference's final training loss: the median over the seeds."""
    runs = results[REFERENCE][task_name].values()
    return statistics.median(run["train_loss"] for run in runs)


def summary(record, task, target):
    """What is kept of a run; nothing of the test data."""
    if record.diverged_at is not None:
        return {"diverged_at": record.diverged_at}
    score = "loss" if task.is_text else "accuracy"
    row: dict[str, float | None] = {
        "held_out": float(f"{record.validation[score][-1]:.5g}"),
        "train_loss": float(f"{record.final_loss:.4g}"),
    }
    if target is not None:
        steps = record.steps_to(target)
        row["steps_to_target"] = steps if math.isfinite(steps) else None
    return row


def table(names):
    """Prints differences to the recipe as it is, and steps over those of the task."""
    results = read()
    for title, cell in (("score", score_cell), ("steps", steps_cell)):
        print(f"| {title} | " + " | ".join(TASKS) + " |")
        print("| --- |" + " ---: |" * len(TASKS))
        for name in names or (n for n in (REFERENCE, *VARIANTS) if n in results):
            cells = (cell(results, name, task) for task in TASKS)
            print(f"| {name} | " + " | ".join(cells) + " |")
        print()


def score_cell(results, name, task_name):
    """A mean difference over the seeds and its standard error; paired by seed."""
    base = results["auto"].get(task_name, {})
    own = results[name].get(task_name, {})
    pairs = [
        (own[s].get("held_out"), base[s].get("held_out")) for s in own if s in base
    ]
    if not pairs or None in [x for pair in pairs for x in pair]:
        return "-" if not pairs else "failed"
    if name == "auto":
        mean = statistics.fmean(pair[0] for pair in pairs)
        return f"{mean:.3f}" if TASKS[task_name].is_text else f"{100 * mean:.2f}"
    is_text = TASKS[task_name].is_text
    differences = [(b - a) if is_text else 100 * (a - b) for a, b in pairs]
    error = statistics.stdev(differences) / len(pairs) ** 0.5
    return f"{statistics.fmean(differences):+.{3 if is_text else 2}f} ± {error:.2g}"


def steps_cell(results, name, task_name):
    """The median over the seeds of steps to the target over those of the task."""
    runs = results[name].get(task_name, {}).values()
    steps = [run.get("steps_to_target") or math.inf for run in runs]
    middle = statistics.median(steps) if steps else math.inf
    return f"{middle / TASKS[task_name].steps:.2f}" if middle < math.inf else "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("run")
    own.add_argument("variants", nargs="*", default=[])
    own.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    own.add_argument("--data-dir", default=None)
    own = commands.add_parser("table")
    own.add_argument("variants", nargs="*", default=[])
    args = parser.parse_args()
    if args.command == "table":
        table(args.variants)
    else:
        run(args.variants or [REFERENCE, *VARIANTS], args.tasks, args.data_dir)


if __name__ == "__main__":
    main()
