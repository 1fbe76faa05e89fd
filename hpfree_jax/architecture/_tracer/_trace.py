"""Reads the graph of layers from the jaxpr of any JAX function."""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hpfree_jax._base import is_inexact
from hpfree_jax._paths import named_leaves
from hpfree_jax.architecture._architecture import Architecture
from hpfree_jax.architecture._tracer import _axes
from hpfree_jax.architecture._tracer._build import Builder, Leaf
from hpfree_jax.architecture._tracer._finish import finish
from hpfree_jax.architecture._tracer._interpreter import Interpreter
from hpfree_jax.architecture._tracer._values import (
    Const,
    Derived,
    Signal,
    Value,
    View,
    derived_in,
    live,
    signals_in,
)


def trace_architecture(
    fn: Any, *args: Any, constant_inputs: Sequence[int] = ()
) -> Architecture:
    r"""Reads the graph of layers of a model, without computing anything.

    ``trace_architecture(fn, params, *inputs)`` traces ``fn(params, *inputs)``, any JAX
    function; ``trace_architecture(module, *inputs)`` a Flax NNX module, whose
    ``nnx.Param`` are the parameters and whose other variables (running statistics,
    keys) are constants. Where a function takes an NNX module, pass the module as
    ``params``. Arrays may be :class:`jax.ShapeDtypeStruct`, modules may come from
    ``nnx.eval_shape``.

    Every intermediate of the jaxpr is a constant, derived from parameters, or a
    *signal* that belongs to a node:

    - Elementwise maps, reductions, reshapes, pooling, dropout, and combinations of
      signals of the same node (normalisation, softmax) stay in that node.
    - A contraction or convolution of a signal with a parameter-derived array, or a
      lookup into one, is a **layer**. A lookup by constant indices is a layer that no
      input feeds.
    - A sum of signals of different nodes is a **sum**; its in-degree is the number of
      branches. A sum that only feeds another one, at most scaled, shifted or
      reshaped on the way, is part of it.
    - A product of different nodes and a concatenation **join** paths.
    - Multiplying or shifting by a parameter makes a **vector** of the layer that feeds
      it.

    Values without a derivative make no path: masks, comparisons, indices into signals.
    Random numbers are constants, even if their key is an input. A loop over layers is
    unrolled, so that each iteration has its own; a loop without parameters joins
    whatever enters it. All branches of ``lax.cond`` are followed and their results
    joined, so that paths through each of them count.

    Args:
      fn: a function of the parameters and inputs, or an NNX module.
      *args: the parameters, unless ``fn`` is a module, then the inputs: pytrees of
        arrays or of ``jax.ShapeDtypeStruct``.
      constant_inputs: positions, among the inputs, of arguments that are not data:
        running statistics, float masks, dropout keys.

    Returns:
      The :class:`Architecture`: plain, frozen, hashable Python.

    Raises:
      NotImplementedError: if the graph cannot be followed; the message names the
        primitive and the source line.
      ValueError: if the outputs depend on no input, or on no parameter, or if nothing
        reads some of the parameters; the message names them.

    >>> def mlp(params, x):
    ...     return jax.nn.relu(x @ params["a"]) @ params["b"]
    >>> shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    >>> params = {"a": shape(4, 8), "b": shape(8, 2)}
    >>> arch = trace_architecture(mlp, params, shape(1, 4))
    >>> arch.path_depths
    {2: 1}
    >>> [(layer.path, layer.fan_in) for layer in arch.layers]
    [('a', 4), ('b', 8)]
    """
    fn, params, constants, inputs = _signature(fn, args)
    for position in constant_inputs:
        if not 0 <= position < len(inputs):
            raise ValueError(
                f"`constant_inputs` has the position {position}, but there are "
                f"{len(inputs)} inputs after the parameters."
            )
    params = _abstract(params)
    closed = jax.make_jaxpr(fn)(
        params, constants, *(_abstract(value) for value in inputs)
    )
    leaves = [
        Leaf(leaf.name, jnp.shape(leaf.value), is_inexact(leaf.value))
        for leaf in named_leaves(params)
    ]
    builder = Builder(leaves)
    values: list[Value] = [
        Derived((View(index, _axes.labelled(leaf.shape)),))
        if leaf.is_inexact
        else Const()
        for index, leaf in enumerate(leaves)
    ]
    values += [Const() for _ in jax.tree.leaves(constants)]
    for position, value in enumerate(inputs):
        for leaf in named_leaves((value,)):
            values.append(_input(builder, position, leaf, position in constant_inputs))
    results = Interpreter(builder).run(closed, values)
    for signal in live(signals_in(results)):
        builder.outputs[signal.node] = None
        builder.note_use(signal)
    for result in derived_in(results):
        builder.read.update(view.leaf for view in result.views)
    return finish(builder)


def _signature(fn, args):
    """Returns fn(params, constants, *inputs), params, constants, inputs."""
    module: Any = fn if _is_nnx_module(fn) else args[0] if args else None
    if not _is_nnx_module(module):
        if not callable(fn):
            raise TypeError(
                f"`fn` must be a function of the parameters or a Flax NNX module, got "
                f"{fn!r}."
            )
        if len(args) < 2:
            raise TypeError(
                "`trace_architecture(fn, params, *inputs)` needs the parameters and at "
                f"least one input, got {len(args)} argument(s) after `fn`."
            )
        return (lambda p, c, *xs: fn(p, *xs)), args[0], (), args[1:]

    from flax import nnx

    inputs = args if module is fn else args[1:]
    graph, params, constants = nnx.split(module, nnx.Param, ...)

    def call(params, constants, *inputs):
        merged = nnx.merge(graph, params, constants)
        _ease_writes(merged, nnx)
        return merged(*inputs) if module is fn else fn(merged, *inputs)

    return call, params, constants, inputs


def _ease_writes(module: Any, nnx: Any) -> None:
    """Keeps the cost of tracing BatchNorm in training linear in the model's size.

    Where the running statistics of a copy of the module are overwritten by a value of
    the same dtype, Flax asks both for their sharding, and JAX lists all equations so
    far in the error that it raises for a tracer. The values are never computed here,
    so that a narrower dtype does no harm.
    """
    narrower = {"float32": "bfloat16", "float64": "float32"}

    def narrow(variable, value):
        del variable
        return value.astype(narrower.get(value.dtype.name, value.dtype.name))

    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.BatchStat) and not node.has_metadata("on_set_value"):
            node.set_metadata(on_set_value=narrow)


def _is_nnx_module(value: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # a module can only exist where it was imported
    return nnx is not None and isinstance(value, nnx.Module)


def _abstract(tree):
    """Shapes and dtypes of arrays, so that tracing holds no memory."""

    def shape(leaf):
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return leaf

    return jax.tree.map(shape, tree)


def _input(builder: Builder, position: int, leaf: Any, is_constant: bool) -> Value:
    dtype = getattr(leaf.value, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if is_constant or is_key:
        return Const()
    label = "/".join([f"input {position}", *leaf.name.split("/")[1:]])
    node = builder.add_node("input", label=label)
    shape = getattr(leaf.value, "shape", ())
    is_mask = dtype is not None and jnp.issubdtype(dtype, jnp.bool_)
    return Signal(node, _axes.plain(shape), blocks_gradient=is_mask, is_unmodified=True)
