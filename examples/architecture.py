"""From a model to its graph, initialisation, learning rate and AGD layout.

Run it with `python examples/architecture.py [graph.svg]`: it traces a small network
with two branches, finds the largest learning rate of the shallowest network of the
family, carries it over without another search, and trains.
"""

import sys

import jax
import jax.numpy as jnp
import optax

import hpfree_jax as hp

WIDTH, CLASSES, STEPS = 32, 4, 60


def network(code):
    """An MLP on a DAG of the paper's family, and its abstract parameters."""
    groups = code.split("_")

    def fn(params, x):
        nodes = [x @ params["stem"]]
        for to, group in enumerate(groups, start=1):
            total = 0.0
            for source, kind in enumerate(group):
                if kind == "1":
                    total += nodes[source]
                elif kind == "2":
                    total += jax.nn.relu(nodes[source]) @ params[f"{source}-{to}"]
            nodes.append(total)
        return jax.nn.relu(nodes[-1]) @ params["head"] + params["bias"]

    matrix = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    params = {
        f"{source}-{to}": matrix(WIDTH, WIDTH)
        for to, group in enumerate(groups, start=1)
        for source, kind in enumerate(group)
        if kind == "2"
    }
    params |= {"stem": matrix(8, WIDTH), "head": matrix(WIDTH, CLASSES)}
    return fn, params | {"bias": matrix(CLASSES)}


def problem():
    """Points whose class is the quadrant of their first two coordinates."""
    x = jax.random.normal(jax.random.key(1), (256, 8))
    return x, (x[:, 0] > 0) * 2 + (x[:, 1] > 0)


def losses_of(fn, params, tx, data, steps=STEPS):
    """The training loss at each step, as a pure function of its arguments."""

    def loss(params):
        logits = fn(params, data[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]


def main(path=None):
    """Prints each step, and returns the last losses of the two trainings."""
    data, key = problem(), jax.random.key(0)

    # 1. The graph: shapes are enough, nothing is computed.
    fn, params = network("2_12_022")
    arch = hp.trace_architecture(fn, params, data[0])
    print(arch.summary(), "\n")
    if path:
        arch.plot().figure.savefig(path)

    # 2. The largest rate of the shallowest network of the family: one layer inside.
    base_fn, base_params = network("2")
    base = hp.trace_architecture(base_fn, base_params, data[0])
    start = hp.initialize(key, base_params, base)
    base_rate = hp.find_max_learning_rate(
        lambda rate: losses_of(base_fn, start, optax.sgd(rate), data),
        [2.0**k for k in range(-8, 3)],
    )

    # 3. The same rate for the DAG, without another search.
    rate = hp.scale_learning_rate(base_rate, arch, base_depths=base)
    print(f"base rate {base_rate:g}, rate of the DAG {rate:.3g}")
    start = hp.initialize(key, params, arch)
    by_sgd = losses_of(fn, start, optax.sgd(rate), data)

    # 4. Or no rate at all: AGD, with the layout read off the graph.
    start = hp.initialize(key, params, arch, scheme="agd")
    by_agd = losses_of(fn, start, hp.agd(layout=arch.layout(start)), data)

    for name, losses in (("SGD", by_sgd), ("AGD", by_agd)):
        print(f"{name}: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    return by_sgd, by_agd


if __name__ == "__main__":
    main(*sys.argv[1:2])
