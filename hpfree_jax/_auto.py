"""The recipe without settings: nothing to choose but how long to train."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    all_finite,
    finish,
    is_inexact,
    scalar_like,
    select_state,
    transformation,
    widen,
)
from hpfree_jax._paths import map_with_name
from hpfree_jax.architecture import Architecture
from hpfree_jax.descent import num_multiplications, scale_by_steepest_descent
from hpfree_jax.layouts import Layout, Matrix, Vector

# What the first step changes in the output of all layers together, before the readout
# moves READOUT times as fast; docs/auto.md has the evidence for each of these.
RATE = 0.2
READOUT = 2.0  # times as much for the last layers
MOMENTUM = 0.9
DECAY = 0.02  # times the depth less one, up to 10
# Where orthogonalising a matrix would take more than this share of the arithmetic of
# its gradient, only its leading directions are: an eighth, and at least so many.
SHARE = 0.5
MIN_RANK = 32


class AutoState(NamedTuple):
    """State of :func:`auto`; scalars are float32, or float64 under x64."""

    count: Int[Array, ""]  # int32, steps taken: calls with finite gradients
    learning_rate: Float[Array, ""]  # of the last step; at first, of the one to come
    past_horizon: Bool[Array, ""]  # whether a step was taken after total_steps
    direction: optax.OptState  # a SteepestDescentState


def auto(
    params: PyTree, architecture: Architecture, total_steps: ArrayLike
) -> optax.GradientTransformationExtraArgs:
    r"""Trains any model for a given number of steps, with nothing else to choose.

    With the mean depth :math:`D` of all paths through the model (1 if it is less), at
    step :math:`t = 0, \dots, T - 1`

    .. math::
        W \leftarrow W - \frac{0.2}{D} \left(1 - \frac tT\right)
            (d_t + 0.02 \min(D - 1, 10)\, W),

    where :math:`d_t` is the direction of :func:`hpfree_jax.scale_by_steepest_descent`
    with Nesterov momentum 0.9: matrices orthogonalised and scaled by the square root of
    fan-out over fan-in, rows of embeddings and vectors divided by their root mean
    square. Matrices that produce an output of the model, tied embeddings excepted, move
    twice as fast. Weight decay is for matrices and embeddings only. The rate has no
    unit: it is the share of its output that each layer but the last changes in a step.

    A matrix whose orthogonalisation would take more arithmetic than half of its
    gradient, for a batch of the size that ``architecture`` was traced with, is
    orthogonalised along its leading singular directions only.

    Args:
      params: the parameters, or their shapes (:class:`jax.ShapeDtypeStruct`).
      architecture: of the model with these parameters, from
        :func:`hpfree_jax.trace_architecture` on a batch of the size of the training.
      total_steps: :math:`T`, the updates in the whole training.

    Returns:
      An optimizer: updates are ready for ``optax.apply_updates``, and ``update`` needs
      ``params``. A call with a non-finite gradient returns zero updates and the state
      as it was, ``count`` included. Past the horizon the rate stays at its last value,
      :math:`0.2 / (D T)`, and ``state.past_horizon`` says so.

    Raises:
      ValueError: if ``total_steps`` is not a whole number of at least 1 (of JAX
        scalars, which may be traced, the value is not checked), or ``params`` are not
        those of the traced model (the message names the first path that differs).
      TypeError: if ``total_steps`` is no number, or ``architecture`` no
        :class:`hpfree_jax.Architecture`.

    >>> params = {"kernel": jnp.zeros((2, 3))}
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> model = lambda params, x: x @ params["kernel"]
    >>> import hpfree_jax as hp
    >>> tx = hp.auto(params, hp.trace_architecture(model, params, x), total_steps=50)
    >>> loss = lambda params: jnp.mean((model(params, x) - 1) ** 2)
    >>> @jax.jit
    ... def step(params, state):
    ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
    ...     return optax.apply_updates(params, updates), state
    >>> state = tx.init(params)
    >>> for _ in range(50):
    ...     params, state = step(params, state)
    >>> print(f"{loss(params):.2f}")
    0.00
    """
    _check_total_steps(total_steps)
    if not isinstance(architecture, Architecture):
        raise TypeError(
            "`architecture` must come from hp.trace_architecture(model, batch), got "
            f"{architecture!r}."
        )
    depth = max(architecture.mean_path_depth, 1.0)
    peak = RATE / depth
    direction, stateless = _parts(params, architecture, depth)

    def learning_rate(count):
        horizon = jnp.asarray(total_steps, accumulator_dtype())
        step = jnp.minimum(count.astype(horizon.dtype), horizon - 1)
        return peak * (1 - step / horizon)

    def init_fn(params):
        count = scalar_like(params, 0, jnp.int32)
        return AutoState(
            count=count,
            learning_rate=learning_rate(count),
            past_horizon=count > 0,
            direction=direction.init(params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError(
                "hp.auto needs the parameters for its weight decay: call "
                "tx.update(grads, state, params)."
            )
        is_finite = all_finite(updates)
        rate = learning_rate(state.count)
        updates, direction_state = direction.update(updates, state.direction, params)
        updates, _ = stateless.update(updates, stateless.init(params), params)
        moves = [-rate * widen(u) for u in jax.tree.leaves(updates) if is_inexact(u)]
        new_state = AutoState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            learning_rate=rate,
            past_horizon=state.count >= jnp.asarray(total_steps),
            direction=direction_state,
        )
        return (
            finish(moves, updates, None, is_finite),
            select_state(is_finite, new_state, state),
        )

    return transformation(init_fn, update_fn)


def _parts(
    params: PyTree, architecture: Architecture, depth: float
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The direction; and, without a state, the readouts' factor and weight decay."""
    layout, tables = _roles(params, architecture)
    layers = architecture.layers
    weights = {leaf.path for layer in layers for leaf in layer.leaves}
    if not weights:
        warnings.warn(
            "The architecture has no layer, so that hp.auto has no matrix to "
            "orthogonalise: each parameter is moved along its gradient divided by the "
            "gradient's root mean square, at a rate that falls from "
            f"{RATE} to 0. If the model has matrices, trace the function that applies "
            "them.",
            stacklevel=3,
        )
    readouts = {
        leaf.path
        for layer in layers
        if layer.readout_fan_in
        for leaf in layer.leaves
        if leaf.path not in tables  # an embedding may be the readout as well
    }
    direction = scale_by_steepest_descent(
        layout,
        tables=tables,
        ranks=_ranks(architecture, layout, tables),
        momentum=MOMENTUM,
        nesterov=True,
    )
    among = lambda paths: lambda tree: map_with_name(lambda n, _: n in paths, tree)
    stateless = optax.chain(
        optax.masked(optax.scale(READOUT), among(readouts)),
        optax.add_decayed_weights(DECAY * min(depth - 1, 10), mask=among(weights)),
    )
    return direction, stateless


def _check_total_steps(total_steps: ArrayLike) -> None:
    if isinstance(total_steps, jax.Array) and total_steps.ndim == 0:
        return  # it may be traced
    if isinstance(total_steps, np.ndarray) and total_steps.ndim == 0:
        total_steps = total_steps[()]
    is_number = isinstance(total_steps, int | float | np.number)
    if isinstance(total_steps, bool) or not is_number:
        raise TypeError(
            "`total_steps` must be the number of updates in the whole training, got "
            f"{total_steps!r}."
        )
    if not (total_steps >= 1 and float(total_steps).is_integer()):
        raise ValueError(
            "`total_steps` must be the number of updates in the whole training, a "
            f"whole number of at least 1, got {total_steps}."
        )


def _roles(params: PyTree, architecture: Architecture) -> tuple[Layout, set[str]]:
    """The layout, and the paths of what is normalised row by row.

    A vector without a leader, or a parameter that acts on no signal, is a table of one
    row.
    """
    shapes = dict(architecture.leaves)
    alone = [v.path for v in architecture.vectors if v.leader is None and not v.in_axes]
    alone += architecture.returned_leaves
    rows: dict[str, Matrix | Vector | None] = {
        path: Matrix((), tuple(range(len(shapes[path])))) for path in alone
    }
    layout = architecture.layout(params, overrides=rows)
    tables = {layer.path for layer in architecture.layers if layer.kind == "embedding"}
    return layout, tables | set(rows)


def _ranks(
    architecture: Architecture, layout: Layout, tables: set[str]
) -> dict[str, int]:
    """Of the matrices that are too expensive to be orthogonalised as a whole."""
    shapes, ranks = dict(architecture.leaves), {}
    for layer in architecture.layers:
        for leaf in layer.leaves:
            if leaf.path in tables or not layer.num_inputs:
                continue
            d_in, d_out, positions = layout.matrices[leaf.path].fans(shapes[leaf.path])
            rows, columns = sorted((d_in * positions, d_out))
            gradient = 3 * rows * columns * layer.num_inputs
            if num_multiplications(rows, columns) > SHARE * gradient:
                ranks[leaf.path] = max(MIN_RANK, rows // 8)
    return ranks
