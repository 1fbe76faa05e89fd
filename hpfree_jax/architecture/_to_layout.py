"""The layout that AGD needs, read off the graph of layers."""

from collections.abc import Mapping

from jaxtyping import PyTree

from hpfree_jax._base import is_inexact
from hpfree_jax._paths import is_under, left_out, named_leaves
from hpfree_jax.architecture._graph import Layer, LayerGraph, LeafAxes, VectorLeaf
from hpfree_jax.layouts import Layout, Matrix, Vector

_OTHER_MODEL = "These parameters are not those of the traced model: "


def layout_of(
    arch: LayerGraph,
    params: PyTree | None = None,
    overrides: Mapping[str, Matrix | Vector | None] | None = None,
) -> Layout:
    r"""Makes the exact layout of a traced model, for :func:`hpfree_jax.agd`.

    - Every leaf of a layer is a :class:`hpfree_jax.Matrix`. The roles of its axes are
      those of the computation, independent of the order in which they are stored.
    - A layer whose output (or weight) is split into :math:`k` parts that are used
      separately, such as a fused projection to queries, keys and values, counts as
      :math:`k` layers:
      scale divisor :math:`m = k`, depth count :math:`n = k`.
    - A layer whose output is added to a residual stream has :math:`n = 1` and, as
      :math:`m`, the number of blocks that add to that stream. A block is counted once,
      however many residual sums it has: branches with the same kinds and fans of layers
      are counted together, and the largest count is taken.
    - A vector follows the layer that feeds it. If that layer is stacked and the vector
      is not, or vice versa, it follows the nearest layer in the order of execution
      that is stacked in the same way.
    - A leaf of a tied layer has the axes and divisors of its first use.

    Args:
      arch: from :func:`trace_architecture`.
      params: if given, they are checked to be parameters of this architecture.
      overrides: rules by path, which replace those of the graph.

    Raises:
      ValueError: if ``params`` are not those of the traced model (the message names the
        first path that differs), or if a leaf has no rule.
    """
    if params is not None:
        check_params(arch, params)
    shapes = dict(arch.leaves)
    overrides = dict(overrides or {})
    for path in overrides:
        if path not in shapes:
            raise ValueError(
                f"`overrides` names `{path}`, which is not a floating-point parameter "
                "of the traced model."
            )
    rules: dict[str, Matrix | Vector | None] = {}
    for layer in arch.layers:
        for leaf in layer.leaves:
            rules.setdefault(leaf.path, _matrix(layer, leaf))
    for vector in arch.vectors:
        if vector.path not in overrides:
            rules[vector.path] = _vector_rule(vector, shapes[vector.path])
    for path in arch.returned_leaves:
        if path not in overrides:
            raise ValueError(
                f"The model returns the parameter `{path}` and applies it to no "
                "signal, so that it is neither a matrix nor a vector. Give its rule: "
                f"arch.layout(overrides={{{path!r}: None}}) leaves it alone."
            )
    rules |= overrides
    return Layout({path: rules[path] for path, _ in arch.leaves})


def _matrix(layer: Layer, leaf: LeafAxes) -> Matrix:
    return Matrix(
        leaf.in_axes,
        leaf.out_axes,
        leaf.position_axes,
        leaf.stack_axes,
        1 if leaf.is_factor else layer.splits * layer.residual_blocks,
        1 if leaf.is_factor else layer.splits,
    )


def _vector_rule(vector: VectorLeaf, shape: tuple[int, ...]) -> Matrix | Vector:
    if vector.in_axes:
        taken = (*vector.in_axes, *vector.stack_axes)
        out_axes = tuple(axis for axis in range(len(shape)) if axis not in taken)
        return Matrix(vector.in_axes, out_axes, (), vector.stack_axes)
    if vector.leader is None:
        raise ValueError(
            f"The vector `{vector.path}` of shape {shape} has no leader: no layer is "
            f"stacked as it is. Give its rule: arch.layout(overrides="
            f"{{{vector.path!r}: hp.Vector(leader=...)}}), or None to leave it alone."
        )
    return Vector(vector.leader, vector.stack_axes)


def check_params(arch: LayerGraph, params: PyTree) -> None:
    """Raises unless the floating-point leaves are those of the traced model."""
    found = {
        leaf.name: tuple(leaf.value.shape)
        for leaf in named_leaves(params)
        if is_inexact(leaf.value)
    }
    known = dict(arch.leaves)
    gaps = left_out(params)
    for path, shape in known.items():
        if is_under(path, gaps) or found.get(path) == shape:
            continue
        if path in found:
            what = f"`{path}` has the shape {found[path]}, not {shape}."
        else:
            what = f"`{path}` of shape {shape} is missing."
        raise ValueError(_OTHER_MODEL + what)
    for path, shape in found.items():
        if path not in known:
            raise ValueError(
                f"{_OTHER_MODEL}the model has no `{path}` of shape {shape}."
            )
