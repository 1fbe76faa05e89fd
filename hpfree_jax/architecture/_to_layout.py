"""The layout that AGD needs, read off the graph of layers."""

from collections.abc import Mapping

from jaxtyping import PyTree

from hpfree_jax._base import is_inexact
from hpfree_jax._paths import is_under, left_out, named_leaves
from hpfree_jax.architecture._graph import Architecture
from hpfree_jax.layouts._layout import Layout, Matrix, Vector


def layout_of(
    arch: Architecture,
    params: PyTree | None = None,
    overrides: Mapping[str, Matrix | Vector | None] | None = None,
) -> Layout:
    r"""Makes the exact layout of a traced model, for :func:`hpfree_jax.agd`.

    - Every leaf of a layer is a :class:`hpfree_jax.Matrix` whose axes have the roles
      that they have in the computation, whatever the order in which they are stored.
    - A layer whose output (or weight) is cut into :math:`k` parts that are used apart,
      such as a fused projection to queries, keys and values, is :math:`k` layers:
      scale divisor :math:`m = k`, depth count :math:`n = k`.
    - A layer whose output is added to a residual stream has :math:`m` the number of
      blocks that add to that stream, :math:`n = 1`. A block is counted once, however
      many residual sums it has: the branches of the most frequent make are counted.
    - A vector follows the layer that feeds it. Where that one is stacked and the
      vector is not, or the other way round, it follows the layer nearest in the order
      of execution whose stack fits.
    - A leaf of a tied layer has the axes and divisors of its first use.

    Args:
      arch: from :func:`trace_architecture`.
      params: if given, checked to be parameters of this very architecture.
      overrides: rules by path, used as they are.

    Raises:
      ValueError: if ``params`` belong to another model (the message names the first
        path that differs), or a leaf has no rule.
    """
    if params is not None:
        check_params(arch, params)
    rules: dict[str, Matrix | Vector | None] = {}
    for layer in arch.layers:
        for leaf in layer.leaves:
            if leaf.path in rules:
                continue
            rules[leaf.path] = Matrix(
                leaf.in_axes,
                leaf.out_axes,
                leaf.position_axes,
                leaf.stack_axes,
                1 if leaf.is_factor else layer.splits * layer.residual_blocks,
                1 if leaf.is_factor else layer.splits,
            )
    shapes = dict(arch.leaves)
    overrides = dict(overrides or {})
    for vector in arch.vectors:
        if vector.in_axes:
            taken = (*vector.in_axes, *vector.stack_axes)
            out_axes = (a for a in range(len(shapes[vector.path])) if a not in taken)
            rules[vector.path] = Matrix(
                vector.in_axes, tuple(out_axes), (), vector.stack_axes
            )
        elif vector.leader is None and vector.path not in overrides:
            raise ValueError(
                f"The vector `{vector.path}` of shape {shapes[vector.path]} has no "
                "leader: there is no layer that is stacked as it is. Give its rule: "
                f"arch.layout(overrides={{{vector.path!r}: hp.Vector(leader=...)}}), "
                "or None to leave it alone."
            )
        elif vector.leader is not None:
            rules[vector.path] = Vector(vector.leader, vector.stack_axes)
    for path in overrides:
        if path not in shapes:
            raise ValueError(
                f"`overrides` names `{path}`, which is no floating-point parameter of "
                "the traced model."
            )
    for path in arch.others:
        if path not in overrides:
            raise ValueError(
                f"The parameter `{path}` is returned and acts on no signal, so that "
                f"it is neither a matrix nor a vector. Give its rule: "
                f"arch.layout(overrides={{{path!r}: None}}) leaves it alone."
            )
    rules |= overrides
    return Layout({path: rules[path] for path, _ in arch.leaves})


def check_params(arch: Architecture, params: PyTree) -> None:
    """Raises unless the floating-point leaves are those of the traced model."""
    found = {
        leaf.name: tuple(leaf.value.shape)
        for leaf in named_leaves(params)
        if is_inexact(leaf.value)
    }
    gaps = left_out(params)
    for path, shape in arch.leaves:
        if is_under(path, gaps):
            continue
        if path not in found:
            raise ValueError(
                f"These are parameters of another model than the one traced: they lack "
                f"`{path}` of shape {shape}."
            )
        if found[path] != shape:
            raise ValueError(
                f"These are parameters of another model than the one traced: `{path}` "
                f"has the shape {found[path]} and not {shape}."
            )
    known = dict(arch.leaves)
    for path, shape in found.items():
        if path not in known:
            raise ValueError(
                f"These are parameters of another model than the one traced, which has "
                f"no `{path}` of shape {shape}."
            )
