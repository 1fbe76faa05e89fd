r"""MARTHE beside HD, RTHO and four schedules made by hand, from three learning rates.

    python benchmarks/marthe_schedules.py --data-dir ~/tensorflow_datasets \
        [--plot docs/marthe_schedules.png]

The claim of the paper (https://arxiv.org/abs/1910.08525) is that MARTHE is as good as a
schedule made by hand, and far less sensitive to where it starts. It trains VGG-11 with
batch normalisation on CIFAR-10 by SGD with momentum 0.9, from a rate of 0.1, for
200 epochs. For two cores of a CPU the network here has an eighth of the channels,
images are halved to 16 x 16 pixels by means, and the training lasts 1,000 steps of 64
examples. The starting rates 1e-4, 1e-2 and 1 enclose the paper's. Nothing is tuned:
hypergradient methods run at the defaults of hpfree_jax, and with the published additive
rule.

All runs of a seed have the same initial weights and batches. MARTHE and RTHO descend
the loss on 5,000 examples taken from the training set, which no method trains on; HD
descends the training loss, as published. The test set is read once, at the end.

Each finished run is stored in benchmarks/marthe_schedules.json; runs already there, of
the same settings, are not run again.
"""

import argparse
import functools
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.data import load_dataset
from hpfree_jax.models import VGG
from hpfree_jax.training import make_schedule

RESULTS = Path(__file__).with_suffix(".json")
STARTS = (1e-4, 1e-2, 1.0)
NUM_VALIDATION = 5000
RECORD_EVERY = 10  # steps
SGD = functools.partial(optax.sgd, momentum=0.9)
SCHEDULES = ("constant", "staircase", "exponential", "cosine_restarts")

# "published" is the additive rule with the published hyper-learning-rates: 1e-3 for HD
# with SGD (Baydin's code); 1e-8 for MARTHE (its authors' code), which adapts it and
# caps the hypergradient at 100. RTHO has it from the same code, without adaptation.
MARTHE_PUBLISHED = {"hyper_learning_rate": 1e-8, "clip_hypergradient": 100.0}
# Cosines over their root mean square: a rate changes by about 5 % a step, however small
# the cosines are that noise leaves, as long as their signs agree.
NORMALISED = {
    "hyper_learning_rate": optax.chain(
        optax.scale_by_rms(decay=0.9, bias_correction=True), optax.scale(-0.05)
    ),
    "rule": "multiplicative",
}
HYPERGRADIENTS = {
    "MARTHE": hp.marthe,
    "HD": hp.hd,
    "MARTHE, published": functools.partial(hp.marthe, **MARTHE_PUBLISHED),
    "HD, published": functools.partial(hp.hd, hyper_learning_rate=1e-3),
    "RTHO, published": functools.partial(hp.rtho, **MARTHE_PUBLISHED),
    "RTHO": functools.partial(hp.rtho, hyper_learning_rate=0.05, rule="multiplicative"),
    "MARTHE, batch statistics": hp.marthe,
    "HD, normalised": functools.partial(hp.hd, **NORMALISED),
    "MARTHE, normalised": functools.partial(
        hp.marthe, adaptation_rate=0.0, **NORMALISED
    ),
}
METHODS = (*SCHEDULES, *HYPERGRADIENTS)


def make_optimizer(method, start, num_steps):
    """The whole optimizer; its state holds the learning rate."""
    if method in HYPERGRADIENTS:
        return HYPERGRADIENTS[method](SGD, start)
    schedule = make_schedule(method, start, num_steps)
    tx = optax.inject_hyperparams(SGD)(learning_rate=schedule)
    return optax.with_extra_args_support(tx)


def load(data_dir, seed):
    """Standardised images of 16 x 16 pixels, and labels: {part: (images, labels)}."""
    dataset = load_dataset("cifar10", data_dir)

    @jax.jit
    def halve(images):
        x = dataset.normalise(images)
        return x.reshape(len(x), 16, 2, 16, 2, 3).mean((2, 4))

    order = np.random.default_rng(seed).permutation(len(dataset.train_labels))
    parts = {"validation": order[:NUM_VALIDATION], "train": order[NUM_VALIDATION:]}
    data = {
        name: (
            halve(dataset.train_images[index]),
            jnp.asarray(dataset.train_labels[index]),
        )
        for name, index in parts.items()
    }
    test = halve(dataset.test_images), jnp.asarray(dataset.test_labels)
    return data | {"test": test}


def batch_indices(num_examples, options, seed):
    """Indices of each step's batch, ``(steps, batch)``: one epoch after the other."""
    generator = np.random.default_rng(seed)
    per_epoch = num_examples // options.batch_size
    epochs = [
        generator.permutation(num_examples)[: per_epoch * options.batch_size]
        for _ in range(-(-options.steps // per_epoch))
    ]
    return np.concatenate(epochs).reshape(-1, options.batch_size)[: options.steps]


class Trial:
    """Data, network and batches of one seed; compiled steps are shared."""

    def __init__(self, data, options, seed):
        self.data, self.options = data, options
        model = VGG(11, 10, channels=options.channels, rngs=nnx.Rngs(seed))
        model.train()
        self.train_graph, *self.start = nnx.split(model, nnx.Param, ...)
        model.eval()
        self.eval_graph = nnx.graphdef(model)
        self.batches = {
            part: batch_indices(len(data[part][1]), options, [seed, i])
            for i, part in enumerate(("train", "validation"))
        }
        self.steps = {}

    def loss(self, graph, params, statistics, batch):
        """The mean cross-entropy, and the statistics that it leads to."""
        # Copied: a model cannot write to variables made outside the gradient.
        model = nnx.merge(graph, params, statistics, copy=True)
        logits = model(batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    def make_step(self, method, tx):
        """The jitted step, which donates its carry."""
        validates = method in HYPERGRADIENTS and not method.startswith("HD")
        uses_batch = method.endswith("batch statistics")
        validation_graph = self.train_graph if uses_batch else self.eval_graph

        def step(carry, train, validation, index, held_out):
            params, statistics, opt_state = carry
            batch = tuple(part[index] for part in train)
            training_loss = functools.partial(self.loss, self.train_graph)
            (value, new_statistics), grads = jax.value_and_grad(
                training_loss, has_aux=True
            )(params, statistics, batch)
            extra_args = {
                "value_fn": lambda params: training_loss(params, statistics, batch)[0]
            }
            if validates:
                held_out = tuple(part[held_out] for part in validation)
                extra_args["validation_fn"] = lambda params: self.loss(
                    validation_graph, params, statistics, held_out
                )[0]
            updates, opt_state = tx.update(grads, opt_state, params, **extra_args)
            params = optax.apply_updates(params, updates)
            record = jnp.stack([value, hp.get_learning_rate(opt_state)])
            return (params, new_statistics, opt_state), record

        return jax.jit(step, donate_argnums=0)

    @functools.cached_property
    def count_correct(self):
        """The jitted number of correct answers in evaluation mode."""

        @jax.jit
        def count_correct(params, statistics, images, labels):
            logits = nnx.merge(self.eval_graph, params, statistics, copy=True)(images)
            return jnp.sum(jnp.argmax(logits, axis=-1) == labels)

        return count_correct

    def run(self, method, start):
        """Trains once; returns what is stored of it."""
        tx = make_optimizer(method, start, self.options.steps)
        # A hypergradient method has its start in the state only: one compilation.
        key = method if method in HYPERGRADIENTS else (method, start)
        if key not in self.steps:
            self.steps[key] = self.make_step(method, tx)
        step, parts = self.steps[key], (self.data["train"], self.data["validation"])
        params, statistics = jax.tree.map(jnp.array, self.start)
        carry = params, statistics, tx.init(params)
        records, began = [], time.perf_counter()
        for number, index in enumerate(self.batches["train"]):
            held_out = self.batches["validation"][number]
            carry, record = step(carry, *parts, index, held_out)
            records.append(record)
            if number == 0:  # compiled: the clock starts here
                jax.block_until_ready(carry)
                began = time.perf_counter()
        jax.block_until_ready(carry)
        seconds = (time.perf_counter() - began) / max(1, len(records) - 1)
        images, labels = self.data["test"]
        correct = sum(
            int(self.count_correct(*carry[:2], images[i:][:1000], labels[i:][:1000]))
            for i in range(0, len(labels), 1000)
        )
        losses, rates = np.asarray(jax.device_get(records), float).T
        state = carry[2]
        return {
            "test_accuracy": correct / len(labels),
            "training_loss": float(losses[-50:].mean()),
            "milliseconds_per_step": round(1e3 * seconds, 1),
            "num_non_finite": int(getattr(state, "num_non_finite", 0)),
            "learning_rates": [float(f"{r:.4g}") for r in rates[::RECORD_EVERY]],
            "losses": [
                float(f"{loss:.4g}")
                for loss in losses[: len(losses) // RECORD_EVERY * RECORD_EVERY]
                .reshape(-1, RECORD_EVERY)
                .mean(axis=1)
            ],
        }


def store(runs):
    """Writes all runs, so that a kill leaves the old file or the new one."""
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(runs, indent=None).replace("}, {", "},\n {") + "\n")
    os.replace(temporary, RESULTS)


def show(runs, methods, options):
    """Prints the table of docs/hypergradients_evidence.md."""
    columns = " | ".join(f"{start:g}" for start in STARTS)
    print(f"\n| method | {columns} | spread | best | mean |")
    print("|" + "---|" * (len(STARTS) + 4))
    for method in methods:
        accuracies = [
            [
                run["test_accuracy"]
                for run in runs
                if (run["method"], run["start"]) == (method, start)
            ]
            for start in STARTS
        ]
        means = np.array([100 * np.mean(p) if p else np.nan for p in accuracies])
        numbers = [*means, np.ptp(means), np.max(means), np.mean(means)]
        cells = ["-" if np.isnan(x) else f"{x:.1f}" for x in numbers]
        print(f"| {method} | {' | '.join(cells)} |")


def plot(runs, path):
    """The learning rates found, in a panel for each method; 0 is drawn at 1e-6."""
    from matplotlib.figure import Figure

    stored = {(run["method"], run["start"]): run for run in runs if run["seed"] == 0}
    methods = [m for m in HYPERGRADIENTS if (m, STARTS[0]) in stored]
    columns = -(-len(methods) // 2)
    figure = Figure(figsize=(3.2 * columns, 5.6), layout="constrained")
    axes = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(methods) :]:
        ax.set_visible(False)
    for ax in axes[0, len(methods) - columns :]:
        ax.tick_params(labelbottom=True)  # nothing is below
    for ax, method in zip(axes.flat, methods, strict=False):
        for i, start in enumerate(STARTS):
            if (run := stored.get((method, start))) is None:
                continue
            rates = np.array(run["learning_rates"])
            steps = RECORD_EVERY * np.arange(len(rates))
            label = f"{start:g}: {run['test_accuracy']:.1%}"
            ax.plot(steps, np.maximum(rates, 1e-6), color=f"C{i}", label=label)
        ax.set(yscale="log", title=method)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7, title="start: test accuracy", title_fontsize=7)
    figure.supxlabel("step")
    figure.supylabel("learning rate")
    figure.savefig(path, dpi=110)


def main():
    """Runs what is missing, prints the table and draws the schedules."""
    parser = argparse.ArgumentParser(description="MARTHE beside schedules")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("steps", "batch_size")}
    settings["channels"] = options.channels
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    versions |= {"optax": optax.__version__, "hpfree_jax": hp.__version__}
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    is_ours = lambda run: all(run[name] == value for name, value in settings.items())
    done = {(r["method"], r["start"], r["seed"]) for r in runs if is_ours(r)}
    for seed in range(options.seeds):
        missing = [
            (method, start)
            for method in options.methods
            for start in STARTS
            if (method, start, seed) not in done
        ]
        if not missing:
            continue
        trial = Trial(load(options.data_dir, seed), options, seed)
        for method, start in missing:
            began = time.perf_counter()
            result = trial.run(method, start)
            cost = time.perf_counter() - began
            header = {"method": method, "start": start, "seed": seed} | settings
            date = datetime.now(UTC).isoformat(timespec="seconds")
            tail = {"seconds": round(cost, 1), "date": date, "versions": versions}
            runs.append(header | result | tail)
            store(runs)
            accuracy = result["test_accuracy"]
            print(f"{method}, {start:g}: {accuracy:.2%} in {cost:.0f} s", flush=True)
    ours = [run for run in runs if is_ours(run) and run["seed"] < options.seeds]
    show(ours, options.methods, options)
    total = sum(run["seconds"] for run in ours) / 60
    print(f"\n{len(ours)} runs, {total:.0f} minutes")
    if options.plot:
        plot(ours, options.plot)


if __name__ == "__main__":
    main()
