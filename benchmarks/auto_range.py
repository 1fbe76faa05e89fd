"""Where hp.auto can fail: horizons, batches, depths and widths far from usual ones.

    python benchmarks/auto_range.py --data-dir ~/tensorflow_datasets [--seed 0]

hp.auto beside Adam at 1e-3 with cosine decay to 0, on networks of this library with
cross-entropy: MNIST for the fully connected and convolutional ones, the characters of
Shakespeare for the GPT. Along one axis at a time from a centre, then in corners where
several are extreme. A run has failed if a loss was ever not finite, or if it ends no
better than guessing: the training loss above that, or the test accuracy below 1.5 times
that of one class. Results go to ``auto_range.json`` after each point; ``--axes`` runs
some axes and keeps the results of the others, and without a name after it only prints
the table again.
"""

import argparse
import functools
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.data import load_dataset, load_tokens
from hpfree_jax.models import build_model
from hpfree_jax.training import cross_entropy_loss

RESULTS = Path(__file__).with_suffix(".json")
CONTEXT = 32
NUM_EVALUATED, CHUNK = 4000, 500  # examples of each split for the final numbers


class Point(NamedTuple):
    """One place of the range."""

    axis: str
    model: str = "fcn"
    depth: int = 4
    width: int = 128
    batch: int = 128
    steps: int = 400


# Long and large ones take fewer steps or a smaller network, for the sake of the time.
POINTS = (
    Point("centre"),
    *(Point("steps", steps=n) for n in (200, 1000, 4000)),
    Point("steps", depth=2, width=32, batch=32, steps=20_000),
    *(Point("batch", batch=n) for n in (32, 512, 2048)),
    Point("batch", batch=4096, steps=200),
    *(Point("depth", depth=n) for n in (1, 2, 8, 16, 32)),
    *(Point("width", width=n) for n in (32, 512)),
    Point("width", width=1024, steps=200),
    Point("corner", depth=1, batch=4096, steps=200),
    Point("corner", depth=32, width=32, batch=32),
    Point("corner", depth=32, width=32, batch=4096, steps=200),
    Point("corner", depth=32, width=32, batch=32, steps=4000),
    Point("corner", depth=2, width=1024, batch=32, steps=200),
    *(Point("conv", "lenet5", 5, 6, n, 200) for n in (32, 256)),
    *(Point("blocks", "gpt_char", n, 64, 16, 200) for n in (1, 8)),
)


def adam(params, architecture, steps):
    """The usual choice, not tuned."""
    del params, architecture
    return optax.adam(optax.cosine_decay_schedule(1e-3, steps))


METHODS = {"auto": hp.auto, "adam": adam}


def settings_of(point):
    """What the table of models knows of a point."""
    if point.model == "lenet5":
        return {}
    settings = {"depth": point.depth, "width": point.width}
    if point.model == "gpt_char":
        settings |= {"heads": 4, "context": CONTEXT, "dropout": 0.0}
    return settings


def batches(dataset, point, seed):
    """Indices of the examples of each step, epoch by epoch without a short batch."""
    per_epoch = dataset.num_train // point.batch
    order = np.arange(0)
    for number in range(point.steps):
        epoch, place = divmod(number, per_epoch)
        if place == 0:
            key = jax.random.fold_in(jax.random.key(seed), epoch)
            order = np.asarray(dataset.epoch_order(key))
        yield order[place * point.batch : (place + 1) * point.batch]


def train(point, make_optimizer, dataset, seed):
    """One run: its row of the results."""
    start = time.perf_counter()
    shape, classes = dataset.input_shape, dataset.num_classes
    model = build_model(
        point.model, shape, classes, settings_of(point), rngs=nnx.Rngs(seed)
    )
    dtype = jnp.int32 if point.model == "gpt_char" else jnp.float32
    example = jax.ShapeDtypeStruct((point.batch, *shape), dtype)
    architecture = hp.trace_architecture(model, example)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    tx = make_optimizer(params, architecture, point.steps)

    def outputs(params, arrays, index):
        batch = dataset.take(arrays, index)
        model = nnx.merge(graph, params, rest)
        return model(dataset.prepare(batch.inputs)), batch.targets

    def loss(params, arrays, index):
        return jnp.mean(cross_entropy_loss(*outputs(params, arrays, index)))

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, state, worst, arrays, index):
        value, grads = jax.value_and_grad(loss)(params, arrays, index)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, jnp.maximum(worst, value)

    @jax.jit
    def evaluate(params, arrays, index):
        scores, labels = outputs(params, arrays, index)
        correct = jnp.argmax(scores, -1) == labels
        return jnp.mean(cross_entropy_loss(scores, labels)), jnp.mean(correct)

    def evaluated(arrays, starts):
        chunks = [starts[i : i + CHUNK] for i in range(0, len(starts), CHUNK)]
        numbers = [evaluate(params, arrays, jnp.asarray(chunk)) for chunk in chunks]
        return [
            float(sum(column) / len(chunks)) for column in zip(*numbers, strict=True)
        ]

    train_arrays = jax.device_put(dataset.train_arrays)
    state, worst = tx.init(params), jnp.zeros(())  # NaN stays in a maximum
    for index in batches(dataset, point, seed):
        params, state, worst = step(params, state, worst, train_arrays, index)
    order = dataset.epoch_order(jax.random.key(0))[:NUM_EVALUATED]
    train_loss, _ = evaluated(train_arrays, order)
    test_arrays = jax.device_put(dataset.test_arrays)
    test_loss, accuracy = evaluated(test_arrays, dataset.test_order()[:NUM_EVALUATED])
    finite = math.isfinite(float(worst)) and math.isfinite(train_loss)
    return {
        "train_loss": train_loss,
        "test_loss": test_loss,
        "test_accuracy": accuracy,
        "finite": finite,
        "failed": has_failed(finite, train_loss, accuracy, classes),
        "seconds": time.perf_counter() - start,
    }


def has_failed(finite, train_loss, accuracy, classes):
    """Whether a run was not finite, or learnt nothing or next to nothing."""
    is_guessing = train_loss >= math.log(classes) or accuracy < 1.5 / classes
    return not finite or is_guessing


def print_table(rows):
    """Of all runs, a line for each point."""
    print("| axis | model | depth | width | batch | steps | training loss: auto, adam "
          "| test accuracy: auto, adam | failures |")  # fmt: skip
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    for row in rows:
        runs = [row[name] for name in METHODS]
        losses = ", ".join(f"{run['train_loss']:.2g}" for run in runs)
        accuracies = ", ".join(f"{run['test_accuracy']:.3f}" for run in runs)
        failures = ", ".join(name for name in METHODS if row[name]["failed"])
        place = " | ".join(str(row[field]) for field in Point._fields)
        print(f"| {place} | {losses} | {accuracies} | {failures or 'none'} |")


def main():
    """Runs all points and prints the table."""
    parser = argparse.ArgumentParser(description="The range of hp.auto")
    parser.add_argument("--data-dir")
    parser.add_argument("--seed", type=int, default=0)
    axes = list(dict.fromkeys(point.axis for point in POINTS))
    parser.add_argument("--axes", nargs="*", default=axes, choices=axes)
    args = parser.parse_args()
    record = {"points": []}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())
    if not args.axes:
        print_table(record["points"])
        return
    mnist = load_dataset("mnist", args.data_dir)
    text = load_tokens("tiny_shakespeare", args.data_dir, context=CONTEXT)
    rows = [row for row in record["points"] if row["axis"] not in args.axes]
    for point in POINTS:
        if point.axis not in args.axes:
            continue
        dataset = text if point.model == "gpt_char" else mnist
        row = point._asdict()
        for name, make in METHODS.items():
            row[name] = train(point, make, dataset, args.seed)
            print(point, name, row[name], flush=True)
        rows.append(row)
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "seed": args.seed,
            "points": rows,
        }
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
