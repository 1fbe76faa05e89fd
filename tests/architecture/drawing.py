"""Writes a traced graph as an expression, to be compared with one written by hand."""

import jax
import jax.numpy as jnp


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def draw(arch, inputs=("x",)):
    """``fc(+(stem(x), b(a(stem(x)))))``: + is a sum, * a join, other names layers.

    What a join joins is in alphabetical order.
    """
    names = iter(inputs)
    written = []
    for node in arch.nodes:
        if node.kind == "input":
            written.append(next(names))
            continue
        operands = [written[pred] for pred in node.preds]
        operands = ", ".join(sorted(operands) if node.kind == "join" else operands)
        kind = {"sum": "+", "join": "*"}.get(node.kind)
        written.append(f"{kind or arch.layers[node.layer].path}({operands})")
    return " | ".join(written[output] for output in arch.outputs)


def layers(arch, *fields):
    """{path: (field, ...)} of the layers, or {path: field}."""
    get = lambda layer: tuple(getattr(layer, field) for field in fields)
    return {x.path: get(x) if len(fields) > 1 else get(x)[0] for x in arch.layers}


def leaders(arch):
    return {vector.path: vector.leader for vector in arch.vectors}


def dag_mlp(code, width, *, layout):
    """An MLP on a DAG: each node sums W relu(x), or relu(W x) as in the published code.

    Returns the function to the last node and its parameters. Node 0 is the stem.
    """
    groups = code.split("_")
    params = {"stem": shape(width, width)}
    for to, group in enumerate(groups, start=1):
        for source, kind in enumerate(group):
            if kind == "2":
                params[f"{source}-{to}"] = shape(width, width)

    def net(p, x):
        x = x @ p["stem"]
        nodes = [jax.nn.relu(x) if layout == "published" else x]
        for to, group in enumerate(groups, start=1):
            terms = []
            for source, kind in enumerate(group):
                if kind == "1":
                    terms.append(nodes[source])
                if kind == "2" and layout == "published":
                    terms.append(jax.nn.relu(nodes[source] @ p[f"{source}-{to}"]))
                elif kind == "2":
                    terms.append(jax.nn.relu(nodes[source]) @ p[f"{source}-{to}"])
            nodes.append(sum(terms[1:], terms[0]) if terms else jnp.zeros_like(x))
        return nodes[0], nodes[-1]

    return net, params
