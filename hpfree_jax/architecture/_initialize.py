"""Initial values for the parameters of a traced model, scaled by its graph."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hpfree_jax._base import check_choice, is_inexact
from hpfree_jax._paths import map_with_name
from hpfree_jax._weight_scale import Fan, normal, standard_deviation
from hpfree_jax.architecture._graph import Layer, LayerGraph, LeafAxes, VectorLeaf
from hpfree_jax.architecture._to_layout import check_params, layout_of
from hpfree_jax.initializers import scaled_orthogonal
from hpfree_jax.layouts import Matrix

Degree = Literal["target", "source"]


def initialize(
    key: Array,
    params: PyTree,
    arch: LayerGraph,
    scheme: Literal["principled", "agd"] = "principled",
    *,
    fan: Fan = "fan_in",
    degree: Degree = "target",
) -> PyTree:
    r"""Initialises all parameters of a traced model.

    Scheme ``"principled"``: weights are normal, with mean 0 and standard deviation

    .. math::
        \sigma = \sqrt{\frac{2}{n\, d}}, \qquad
        \sigma_\text{readout} = \frac{2}{n \sqrt{d}},

    :math:`n` the fan-in (kernel window included) and :math:`d` the in-degree of the
    *target*: the number of branches of the sum that the layer's output goes to and
    nowhere else, else 1. A readout is a layer whose output the model returns.

    What this preserves: where a node sums linear maps,
    :math:`z = \sum W \sigma(z')` as in the paper's equation 1, and :math:`\sigma` is
    the ReLU, every node has exactly the second moment of the first, in expectation.
    Where a node sums activations, :math:`x = \sum \sigma(W x')` as in the published
    code, the target's in-degree keeps the sums :math:`x` level up to the cross terms
    of the ReLUs' positive means, and makes the pre-activations smaller; the source's
    in-degree does the reverse. Neither handles skips: an identity branch
    cannot be scaled, so that a chain of residual sums still grows.

    Conventions:

    - An embedding is a lookup of one row: its fan-in is taken as 1, not as the number
      of rows. Tied to a readout it is drawn as a readout, with the readout's fan-in.
    - Shifts are 0, scales 1 (0, where the model adds a constant to them first), which
      includes the scales of normalised weights.
    - A low-rank product beside a full weight (LoRA) starts at 0, by its last factor; on
      its own its last factor takes the rule above, the others the variance
      :math:`1/n`.

    Scheme ``"agd"``: semi-orthogonal matrices at the scale :math:`s_k` of
    ``arch.layout()``, see :func:`hpfree_jax.initializers.scaled_orthogonal`; shifts 0,
    scales 1.

    Args:
      key: a JAX random key.
      params: arrays or ``jax.ShapeDtypeStruct``, only read for structure, shape and
        dtype; parameters of ``arch``. Leaves that are not floating-point, and leaves
        that the model returns as they are, are kept.
      arch: from :func:`trace_architecture`.
      scheme: ``"principled"`` or ``"agd"``.
      fan: ``"fan_in"``, or ``"fan_out"`` as in the original code for MLPs and CNNs
        (principled only).
      degree: ``"target"``, or ``"source"`` as in the original code, which gives the
        readout the degree 1 (principled only).

    Returns:
      A pytree like ``params``, of arrays.

    Raises:
      ValueError: if a choice is unknown, or ``params`` are not those of the traced
        model.

    References:
      Chen et al., `Principled Architecture-aware Scaling of Hyperparameters
      <https://arxiv.org/abs/2402.17440>`_, ICLR 2024. The in-degree is that of the
      derivation (A.12), not that of the printed equation 4.

    >>> from hpfree_jax.architecture import trace_architecture
    >>> fn = lambda p, x: jax.nn.relu(x @ p["a"] + x @ p["b"]) @ p["c"]
    >>> params = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    >>> params["c"] = jnp.ones((64, 64))
    >>> arch = trace_architecture(fn, params, jnp.ones((1, 64)))
    >>> drawn = initialize(jax.random.key(0), params, arch)
    >>> print({name: f"{leaf.std():.2f}" for name, leaf in drawn.items()})
    {'a': '0.13', 'b': '0.13', 'c': '0.03'}
    """
    check_choice("scheme", scheme, ("principled", "agd"))
    check_choice("fan", fan, get_args(Fan))
    check_choice("degree", degree, get_args(Degree))
    if scheme == "agd" and (fan, degree) != ("fan_in", "target"):
        raise ValueError(
            '`fan` and `degree` belong to the scheme "principled"; "agd" takes its '
            f"scales from the layout, got fan={fan!r} and degree={degree!r}."
        )
    check_params(arch, params)
    keys = dict(
        zip(
            [path for path, _ in arch.leaves],
            jax.random.split(key, max(len(arch.leaves), 1)),
            strict=False,
        )
    )
    vectors = {vector.path: vector for vector in arch.vectors}
    others = dict.fromkeys(arch.returned_leaves)
    layout = layout_of(arch, overrides=others) if scheme == "agd" else None
    weights = {
        leaf.path: (layer, leaf)
        for layer in reversed(arch.layers)
        for leaf in layer.leaves
    }

    def draw(name, value):
        if not is_inexact(value) or name in others:
            return value
        if layout is not None and isinstance(rule := layout[name], Matrix):
            init = scaled_orthogonal(
                rule.scale_divisor, rule.in_axes, rule.out_axes, rule.stack_axes
            )
            return init(keys[name], value.shape, value.dtype)
        if name in weights:
            scale = _scale(*weights[name], value.shape, fan, degree)
            return normal(keys[name], value.shape, value.dtype, scale)
        vector = vectors[name]
        if vector.in_axes:
            size = math.prod(value.shape[axis] for axis in vector.in_axes)
            scale = standard_deviation(size, 1)
            return normal(keys[name], value.shape, value.dtype, scale)
        return jnp.full(value.shape, _constant(vector), value.dtype)

    return map_with_name(draw, params)


def _scale(
    layer: Layer, leaf: LeafAxes, shape: tuple[int, ...], fan: Fan, degree: Degree
) -> float:
    is_readout = layer.readout_fan_in > 0
    if leaf.is_factor and (not leaf.is_last or _has_whole(layer)):
        size = math.prod(shape[axis] for axis in (*leaf.in_axes, *leaf.position_axes))
        return 0.0 if leaf.is_last else math.sqrt(1 / max(size, 1))
    if fan == "fan_out":
        size = layer.fan_out
    elif leaf.is_factor:
        size = math.prod(shape[axis] for axis in (*leaf.in_axes, *leaf.position_axes))
    elif is_readout:
        size = layer.readout_fan_in
    else:
        size = 1 if layer.kind == "embedding" else layer.fan_in
    if degree == "target":
        in_degree = layer.in_degree
    else:
        in_degree = 1 if is_readout else layer.source_in_degree
    return standard_deviation(size, in_degree, readout=is_readout)


def _has_whole(layer: Layer) -> bool:
    return any(not leaf.is_factor for leaf in layer.leaves)


def _constant(vector: VectorLeaf) -> float:
    return 0.0 if vector.role == "shift" or vector.is_offset else 1.0
