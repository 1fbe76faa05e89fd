"""Second moments, node by node, through the DAGs of the architecture-aware paper.

    python benchmarks/second_moments.py [--draws 256] [--random 100]

The family of Chen et al. (https://arxiv.org/abs/2402.17440): five nodes, each pair of
which is joined by nothing, a skip or a layer. A node is either a sum of linear maps,
sum of W relu(z), as in equation 1 of the paper, or a sum of activations, sum of
relu(W x), as in its published code; there the stem ends in a ReLU too. Networks without
skips are all there are, up to edges that lead nowhere; those with skips are random.

Each network is traced and its standard deviations are read off one draw of
``hp.initialize``; the draws whose moments are averaged are shared by all networks.
A stem makes normal numbers of any input. Printed are second moments relative to node 0,
and the standard error of the last one.
"""

import argparse
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hpfree_jax as hp

WIDTH, BATCH, NUM_NODES = 512, 4, 5
PAIRS = [(source, to) for to in range(1, NUM_NODES) for source in range(to)]
STRINGS = ["2_02_002_0002", "2_22_222_2222", "2_12_021_2012", "2_12_112_1112"]
LAYOUTS = {"sums of maps": False, "sums of activations": True}
SCHEMES = ("He", "source", "target")
MARK = ("sums of maps", "target")  # within 5 % of node 0
# Independent calculations, three draws each, of the last node; two where there are two.
PRINTED = {
    ("2_22_222_2222", "sums of maps"): ("8.0", "4.0", "1.0"),
    ("2_22_222_2222", "sums of activations"): ("19.7, 18.8", "10.2, 9.2", "2.4, 2.3"),
    ("2_12_021_2012", "sums of maps"): ("6.0", "4.5", "2.5"),
    ("2_12_021_2012", "sums of activations"): ("14.4", "9.9", "5.5"),
    ("2_12_112_1112", "sums of activations"): ("22.9", "14.5", "11.7"),
}


def live_kinds(code):
    """The kind of each pair's edge, in order, without edges that lead nowhere."""
    kinds = dict(zip(PAIRS, map(int, code.replace("_", "")), strict=True))
    fed, needed = {0}, {NUM_NODES - 1}
    for source, to in PAIRS:
        fed |= {to} if kinds[source, to] and source in fed else set()
    for source, to in reversed(PAIRS):
        needed |= {source} if kinds[source, to] and to in needed else set()
    alive = fed & needed
    return tuple(kind * alive.issuperset(pair) for pair, kind in kinds.items())


def without_skips():
    """Every network without skips that has a path from node 0 to the last node."""
    codes = itertools.product((0, 2), repeat=len(PAIRS))
    found = {live_kinds("".join(map(str, code))) for code in codes}
    return sorted(kinds for kinds in found if any(kinds))


def with_skips(number, seed):
    """Random networks with at least one skip and one layer."""
    generator = np.random.default_rng(seed)
    found = {}
    while len(found) < number:
        digits = generator.integers(3, size=len(PAIRS)).astype(str)
        kinds = live_kinds("".join(digits))
        if {1, 2} <= set(kinds):
            found[kinds] = None
    return list(found)


def network(kinds, sums_activations):
    """The network as a function, and its abstract parameters."""
    edges = {pair: kind for pair, kind in zip(PAIRS, kinds, strict=True) if kind}
    name = "{}-{}".format

    def fn(params, x):
        z = x @ params["stem"]
        nodes = {0: jax.nn.relu(z) if sums_activations else z}
        for (source, to), kind in edges.items():
            z = nodes[source]
            if kind == 2 and sums_activations:
                z = jax.nn.relu(z @ params[name(source, to)])
            elif kind == 2:
                z = jax.nn.relu(z) @ params[name(source, to)]
            nodes[to] = nodes[to] + z if to in nodes else z
        last = nodes[NUM_NODES - 1]
        return (last if sums_activations else jax.nn.relu(last)) @ params["head"]

    sizes = {name(*pair): (WIDTH, WIDTH) for pair, kind in edges.items() if kind == 2}
    sizes |= {"stem": (784, WIDTH), "head": (WIDTH, 10)}
    return fn, {
        key: jax.ShapeDtypeStruct(size, "float32") for key, size in sizes.items()
    }


def standard_deviations(kinds, sums_activations):
    """{scheme: (pairs,)}, of the layer on each pair, 0 where there is none."""
    fn, params = network(kinds, sums_activations)
    arch = hp.trace_architecture(fn, params, jax.ShapeDtypeStruct((1, 784), "float32"))
    key = jax.random.key(0)
    he = jax.nn.initializers.he_normal()
    drawn = {
        "He": {name: he(key, leaf.shape) for name, leaf in params.items()},
        "source": hp.initialize(key, params, arch, degree="source", fan="fan_out"),
        "target": hp.initialize(key, params, arch),
    }
    names = [f"{source}-{to}" for source, to in PAIRS]
    return {
        scheme: [float(weights[n].std()) if n in weights else 0.0 for n in names]
        for scheme, weights in drawn.items()
    }


@jax.jit
def second_moments(keys, skips, scales, sums_activations):
    """(draws, networks, nodes) relative to node 0, the same draws for all networks."""

    def draw(key):
        key, start = jax.random.split(key)
        keys = jax.random.split(key, len(PAIRS))
        first = jax.random.normal(start, (BATCH, WIDTH))
        first = jnp.where(sums_activations, jax.nn.relu(first), first)
        nodes = [jnp.broadcast_to(first, (len(skips), BATCH, WIDTH))]
        for pair, (source, to) in enumerate(PAIRS):
            weights = jax.random.normal(keys[pair], (WIDTH, WIDTH))
            scale, skip = scales[:, pair, None, None], skips[:, pair, None, None]
            z = nodes[source]
            mapped = jnp.where(sums_activations, z, jax.nn.relu(z)) @ weights * scale
            mapped = jnp.where(sums_activations, jax.nn.relu(mapped), mapped)
            z = mapped + skip * z
            nodes[to:] = [nodes[to] + z] if source else [z]
        moments = jnp.mean(jnp.stack(nodes) ** 2, axis=(2, 3))
        return (moments / moments[0]).T

    return jax.lax.map(draw, keys)


def measure(networks, draws, fewer):
    """{(layout, scheme): (draws, networks, nodes)}, all draws for the mark only."""
    skips = jnp.array(networks) == 1
    found = {}
    for layout, sums_activations in LAYOUTS.items():
        scales = [standard_deviations(kinds, sums_activations) for kinds in networks]
        for scheme in SCHEMES:
            scale = jnp.array([row[scheme] for row in scales])
            number = draws if (layout, scheme) == MARK else fewer
            keys = jax.random.split(jax.random.key(1), number)
            found[layout, scheme] = np.asarray(
                second_moments(keys, skips, scale, sums_activations)
            )
    return found


def mean_and_error(values):
    """Over the draws."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5


def show_strings(draws):
    """The table of single DAGs."""
    found = measure([live_kinds(code) for code in STRINGS], draws, draws)
    print("| DAG | a node is | scheme | node 1 | 2 | 3 | last | elsewhere |")
    print("|---|---|---|---|---|---|---|---|")
    for i, code in enumerate(STRINGS):
        for layout in LAYOUTS:
            for j, scheme in enumerate(SCHEMES):
                mean, error = mean_and_error(found[layout, scheme][:, i])
                inner = " | ".join(f"{value:.2f}" for value in mean[1:-1])
                printed = PRINTED.get((code, layout))
                print(
                    f"| `{code}` | {layout} | {scheme} | {inner} | {mean[-1]:.2f} ± "
                    f"{error[-1]:.2f} | {printed[j] if printed else '-'} |"
                )


def show_family(title, networks, draws):
    """The table of many DAGs: how far the last node is from node 0."""
    found = measure(networks, draws, max(draws // 4, 2))
    print(f"\n{title}, at the last node:\n")
    print(
        "| a node is | scheme | min | geometric mean | max | within 5 % | "
        "largest standard error | draws |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (layout, scheme), values in found.items():
        mean, error = mean_and_error(values[:, :, -1])
        within = np.sum(abs(mean - 1) <= 0.05)
        print(
            f"| {layout} | {scheme} | {mean.min():.3f} | "
            f"{np.exp(np.log(mean).mean()):.3f} | {mean.max():.3f} | "
            f"{within} of {len(mean)} | {error.max():.3f} | {len(values)} |"
        )
    return found


def show_stem(draws):
    """Node 0 and the readout, relative to their inputs."""
    fn, params = network(live_kinds(STRINGS[1]), False)
    x = jax.ShapeDtypeStruct((1, 784), "float32")
    arch = hp.trace_architecture(fn, params, x)
    source: dict[str, Any] = {"degree": "source", "fan": "fan_out"}
    for scheme, options in (("source", source), ("target", {})):
        ends = [
            hp.initialize(key, params, arch, **options)
            for key in jax.random.split(jax.random.key(2), min(draws, 4))
        ]
        stem = np.mean([784 * drawn["stem"].var() for drawn in ends])
        head = np.mean([WIDTH * drawn["head"].var() for drawn in ends])
        print(
            f"{scheme}: the stem multiplies the second moment of 784 inputs by "
            f"{stem:.2f}, the readout that of relu by {head:.4f}"
        )


def main():
    """Measures and prints the tables of docs/architecture_evidence.md."""
    parser = argparse.ArgumentParser(description="Second moments through DAGs")
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--random", type=int, default=100, help="networks with skips")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"width {WIDTH}, {options.draws} draws, {BATCH} inputs each\n")
    show_strings(options.draws)
    networks = without_skips()
    title = f"All {len(networks)} networks without skips"
    found = show_family(title, networks, options.draws)
    mean, error = mean_and_error(found[MARK][:, :, -1])
    print(
        f"\nmark, sums of maps: the last node is within 5 % of node 0 in "
        f"{np.sum(abs(mean - 1) <= 0.05)} of {len(mean)} networks; furthest off "
        f"{100 * abs(mean - 1).max():.1f} %, "
        f"{abs((mean - 1) / error).max():.1f} standard errors at most"
    )
    networks = with_skips(options.random, options.seed)
    show_family(f"{len(networks)} random networks with skips", networks, options.draws)
    print()
    show_stem(options.draws)


if __name__ == "__main__":
    main()
