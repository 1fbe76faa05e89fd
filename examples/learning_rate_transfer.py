"""One learning rate searched, carried over to many networks, beside a search on each.

The recipe of Chen et al. (https://arxiv.org/abs/2402.17440) on MNIST, or on the digits
of scikit-learn where MNIST is not at hand: the rate of lowest training loss is found
on the shallowest multi-layer perceptron, and `hp.scale_learning_rate` carries it over
to plain networks of 3 to 10 layers and to random DAGs. Each of them is searched
as well, to see what the prediction is worth. Networks that the output file holds
already, of the same settings, are not run again.

    python examples/learning_rate_transfer.py --data-dir ~/tensorflow_datasets \\
        --output benchmarks/learning_rate_transfer.json \\
        --plot docs/learning_rate_transfer.png

Needs the extra `train`: pip install "hpfree-jax[train]".
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hpfree_jax as hp
from hpfree_jax.data import load_dataset

BASE, DEPTHS = "2", range(3, 11)
RATES = 2.0 ** np.arange(-6, 2.5, 0.5)


def live_edges(code):
    """{(source, to): kind} of the edges on a path from node 0 to the last node."""
    groups = code.split("_")
    edges = {
        (source, to): kind
        for to, group in enumerate(groups, start=1)
        for source, kind in enumerate(group)
        if kind != "0"
    }
    fed, needed = {0}, {len(groups)}
    for source, to in sorted(edges, key=lambda edge: edge[1]):
        fed |= {to} if source in fed else set()
    for source, to in sorted(edges, reverse=True):
        needed |= {source} if to in needed else set()
    alive = fed & needed
    return {edge: kind for edge, kind in edges.items() if alive.issuperset(edge)}


def network(code, width, num_features, num_classes, published=False):
    """An MLP on a DAG of the paper's family, and its abstract parameters.

    A node is the sum of W relu(z) over its edges of kind 2 and of z over those of
    kind 1; in the published code of relu(W x), and of x. Edges that lead nowhere are
    left out.
    """
    relu = jax.nn.relu
    before, after = (lambda z: z, relu) if published else (relu, lambda z: z)
    edges = live_edges(code)
    last = code.count("_") + 1

    def fn(params, x):
        dense = lambda z, name: z @ params[name] + params[f"{name} bias"]
        nodes = {0: after(dense(x, "stem"))}
        for (source, to), kind in sorted(edges.items(), key=lambda item: item[0][1]):
            z = nodes[source]
            if kind == "2":
                z = after(dense(before(z), f"{source}-{to}"))
            nodes[to] = nodes[to] + z if to in nodes else z
        return dense(before(nodes[last]), "head")

    sizes = {f"{s}-{t}": (width, width) for (s, t), k in edges.items() if k == "2"}
    sizes |= {"stem": (num_features, width), "head": (width, num_classes)}
    sizes |= {f"{name} bias": size[1:] for name, size in sizes.items()}
    params = {
        name: jax.ShapeDtypeStruct(size, "float32") for name, size in sizes.items()
    }
    return fn, params


def chain(depth):
    """The string of a plain network with that many layers, stem and head included."""
    return "_".join("0" * to + "2" for to in range(depth - 2))


def weighted_cubes(code):
    """Sum of depth cubed, a path's weight being its share of the second moment.

    Each layer on it divides that by the in-degree of the node that it ends in, where
    the initialisation is by the degree of the target.
    """
    edges = live_edges(code)
    paths = {0: {2: 1.0}}  # {node: {depth, with stem and head: weight}}
    for (source, to), kind in sorted(edges.items(), key=lambda item: item[0][1]):
        in_degree = sum(edge[1] == to for edge in edges)
        step, share = (1, 1 / in_degree) if kind == "2" else (0, 1.0)
        there = paths.setdefault(to, {})
        for depth, weight in paths[source].items():
            there[depth + step] = there.get(depth + step, 0.0) + weight * share
    return sum(weight * depth**3 for depth, weight in paths[max(paths)].items())


def random_dags(number, seed, kinds="012"):
    """Strings of five nodes, drawn from all in which every node has an edge into it."""
    generator = np.random.default_rng(seed)
    codes = []
    while len(codes) < number:
        digits = [kinds[i] for i in generator.integers(len(kinds), size=10)]
        groups = ["".join(digits[t * (t - 1) // 2 :][:t]) for t in range(1, 5)]
        if all(group.strip("0") for group in groups):
            codes.append("_".join(groups))
    return codes


class Trial:
    """Trains a network at many rates at once, from the same starts."""

    def __init__(self, code, data, options):
        images, labels = data["train"]
        sizes = options.width, images.shape[1], int(labels.max()) + 1
        self.fn, params = network(code, *sizes, options.published)
        self.arch = hp.trace_architecture(self.fn, params, images[:1])
        keys = jax.random.split(jax.random.key(options.seed), options.seeds)
        published: dict[str, Any] = {"degree": "source", "fan": "fan_out"}
        words = published if options.published else {}
        self.starts = jax.vmap(
            lambda key: hp.initialize(key, params, self.arch, **words)
        )(keys)
        self.data, self.options = data, options

    def loss(self, params, batch):
        logits = self.fn(params, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def train(self, start, order, rate):
        """Returns the losses of all steps and the one after them, and the weights."""
        images, labels = self.data["train"]
        tx = optax.sgd(rate)

        def step(params, batch):
            batch = images[batch], labels[batch]
            loss, grads = jax.value_and_grad(self.loss)(params, batch)
            updates, _ = tx.update(grads, tx.init(params))
            return optax.apply_updates(params, updates), loss

        params, losses = jax.lax.scan(step, start, order)
        end = self.loss(params, self.data["measured"])
        return jnp.append(losses, end), params

    def run(self, rate):
        """The losses at one rate, means over the seeds, and the weights."""
        options = self.options
        keys = jax.random.split(jax.random.key(options.seed + 1), options.seeds)
        shape = options.steps, options.batch_size
        orders = jax.vmap(
            lambda key: jax.random.permutation(key, len(self.data["train"][1]))
        )(keys)
        orders = orders[:, : shape[0] * shape[1]].reshape(-1, *shape)
        losses, params = jax.vmap(self.train, in_axes=(0, 0, None))(
            self.starts, orders, rate
        )
        return losses.mean(axis=0), params

    def accuracy(self, params):
        """On the test set, mean over the seeds."""
        images, labels = self.data["test"]
        logits = jax.vmap(self.fn, in_axes=(0, None))(params, images)
        return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def load(options):
    """Standardised pixels in rows, and labels: the parts that the trials use."""
    try:
        dataset = load_dataset(options.dataset, options.data_dir)
    except ValueError as error:
        print(f"{options.dataset} is not at hand ({error}): the digits instead")
        dataset = load_dataset("digits")
    rows = lambda images: dataset.normalise(images).reshape(len(images), -1)
    train = rows(dataset.train_images), jnp.asarray(dataset.train_labels)
    needed = options.steps * options.batch_size
    if needed > len(train[1]):
        options.steps = len(train[1]) // options.batch_size
        print(f"{options.steps} steps are one epoch")
    test = rows(dataset.test_images), jnp.asarray(dataset.test_labels)
    measured = tuple(part[: options.measured] for part in train)
    return dataset.name, {"train": train, "measured": measured, "test": test}


def compare(code, data, base_rate, options):
    """Searches one network, and trains it at the predicted rate too."""
    trial = Trial(code, data, options)
    # Paths counted on the string, as in the paper; the two disagree where skips run
    # side by side, which the traced graph takes for one.
    dag = hp.parse_dag(code).with_layers(2)
    predicted = hp.scale_learning_rate(base_rate, dag)
    traced = hp.scale_learning_rate(base_rate, trial.arch)
    rates = np.append(RATES, predicted).astype(np.float32)
    losses, params = jax.jit(jax.vmap(trial.run))(rates)
    losses = np.asarray(losses)
    ends = np.where(np.isfinite(losses).all(axis=1), losses[:, -1], np.inf)
    best = int(np.argmin(ends[:-1]))
    chosen = jax.tree.map(lambda leaf: leaf[np.array([best, len(RATES)])], params)
    accuracies = jax.jit(jax.vmap(trial.accuracy))(chosen)
    return {
        "code": code,
        "predicted": predicted,
        "predicted_by_trace": traced,
        "found": float(RATES[best]),
        "loss_predicted": float(ends[-1]),
        "loss_found": float(ends[best]),
        "accuracy_predicted": float(accuracies[1]),
        "accuracy_found": float(accuracies[0]),
        "losses": [round(float(end), 4) for end in ends[:-1]],
    }


def correlation(rows, key="predicted"):
    """Pearson's r of predicted and found log learning rates, and the slope."""
    x, y = np.log([[row[key], row["found"]] for row in rows]).T
    if not np.ptp(x) or not np.ptp(y):
        return None, None
    return float(np.corrcoef(x, y)[0, 1]), float(np.polyfit(x, y, 1)[0])


def summarise(families, rows):
    """What the prediction is worth, in each family."""
    summary = {}
    everything = {"all": list(rows)} if len(families) > 1 else {}
    for family, codes in (families | everything).items():
        part = [rows[code] for code in codes]
        weighted = [
            row | {"predicted": weighted_cubes(row["code"]) ** -0.5} for row in part
        ]
        r, slope = correlation(part)
        weighted_r, weighted_slope = correlation(weighted)
        gap = lambda key, part=part: [
            row[f"{key}_found"] - row[f"{key}_predicted"] for row in part
        ]
        ratios = np.log2([row["predicted"] / row["found"] for row in part])
        summary[family] = {
            "networks": len(part),
            "pearson_r": r,
            "slope": slope,
            "pearson_r_by_trace": correlation(part, "predicted_by_trace")[0],
            "pearson_r_weighted": weighted_r,
            "slope_weighted": weighted_slope,
            "mean_log2_ratio": float(ratios.mean()),
            "largest_log2_ratio": float(ratios[np.argmax(abs(ratios))]),
            "mean_accuracy_lost": float(np.mean(gap("accuracy"))),
            "largest_accuracy_lost": float(np.max(gap("accuracy"))),
            "mean_loss_added": -float(np.mean(gap("loss"))),
        }
    return summary


def show(rows, summary):
    """Prints the two tables of docs/architecture_evidence.md."""
    print("| network | predicted | found | accuracy, predicted | accuracy, found |")
    print("|---|---|---|---|---|")
    for row in rows.values():
        print(
            f"| `{row['code']}` | {row['predicted']:.3f} | {row['found']:.3f} | "
            f"{row['accuracy_predicted']:.1%} | {row['accuracy_found']:.1%} |"
        )
    print(
        "\n| family | networks | Pearson r | slope | r, traced paths | r, weighted "
        "paths | slope | predicted / found, geometric mean | furthest | accuracy lost, "
        "mean | largest |"
    )
    print("|" + "---|" * 11)
    names = ("pearson_r", "slope", "pearson_r_by_trace")
    names += ("pearson_r_weighted", "slope_weighted")
    for family, row in summary.items():
        numbers = ["-" if row[n] is None else f"{row[n]:.2f}" for n in names]
        print(
            f"| {family} | {row['networks']} | {' | '.join(numbers)} | "
            f"{2 ** row['mean_log2_ratio']:.2f} | "
            f"{2 ** row['largest_log2_ratio']:.2f} | "
            f"{100 * row['mean_accuracy_lost']:.2f} points | "
            f"{100 * row['largest_accuracy_lost']:.2f} points |"
        )


def plot(families, rows, summary, base_rate, title, path):
    """Predicted against found learning rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    ax = figure.add_subplot()
    for i, (family, codes) in enumerate(families.items()):
        x, y = np.array(
            [[rows[code][key] for code in codes] for key in ("predicted", "found")]
        )
        y = y * (1 + 0.03 * (i - 1))  # rates lie on a grid: families side by side
        r = summary[family]["pearson_r"]
        label = family if r is None else f"{family}, r = {r:.2f}"
        ax.plot(x, y, "osd^"[i % 4], color=f"C{i}", alpha=0.7, label=label)
    values = [row[key] for row in rows.values() for key in ("predicted", "found")]
    low, high = min(values) / 1.4, max([*values, base_rate]) * 1.4
    ax.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
    ax.plot(base_rate, base_rate, "k*", markersize=13, label="base network")
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ax.set(xlabel="predicted learning rate", ylabel="learning rate found by search")
    ticks = [2.0**k for k in range(-10, 10) if low <= 2.0**k <= high]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    """Runs the recipe, prints its tables and returns their summary."""
    parser = argparse.ArgumentParser(description="Learning rates carried over")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--measured", type=int, default=2000, help="training examples")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="*", default=list(DEPTHS))
    parser.add_argument("--dags", type=int, default=10)
    parser.add_argument("--dags-without-skips", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--published",
        action="store_true",
        help="blocks and initialisation as in the authors' code",
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    name, data = load(options)
    kept = ("width", "batch_size", "steps", "measured", "seeds", "seed", "published")
    settings = {"dataset": name} | {key: getattr(options, key) for key in kept}

    # 1. The search, on the shallowest network of the family.
    trial = Trial(BASE, data, options)
    base_rate = hp.find_max_learning_rate(lambda rate: trial.run(rate)[0], RATES)
    print(f"base rate {base_rate:g}, the best of {len(RATES)} on {BASE!r} ({name})")
    result = {"settings": settings, "base_rate": base_rate, "rates": list(RATES)}

    # 2. The same rate for the others, beside a search on each.
    families = {
        "plain depth": [chain(depth) for depth in options.depths],
        "DAGs": random_dags(options.dags, options.seed),
        "DAGs without skips": random_dags(
            options.dags_without_skips, options.seed, kinds="02"
        ),
    }
    families = {family: codes for family, codes in families.items() if codes}
    known = {}
    if options.output and options.output.exists():
        stored = json.loads(options.output.read_text())
        if all(stored[key] == value for key, value in result.items()):
            known = {row["code"]: row for row in stored["networks"]}
    rows = {}
    for code in dict.fromkeys(code for codes in families.values() for code in codes):
        start = time.perf_counter()
        rows[code] = known.get(code) or compare(code, data, base_rate, options)
        print(f"{code}: {time.perf_counter() - start:.0f} s", flush=True)
        if options.output:
            result["networks"] = list((known | rows).values())
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    summary = summarise(families, rows)
    show(rows, summary)
    if options.output:
        result |= {"summary": summary, "networks": list(rows.values())}
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        title = f"{name}, width {options.width}, {options.steps} steps of SGD"
        plot(families, rows, summary, base_rate, title, options.plot)
    return summary


if __name__ == "__main__":
    main()
