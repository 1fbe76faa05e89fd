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
