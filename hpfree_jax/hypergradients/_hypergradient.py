"""Hyperparameters that follow the exact derivative of the loss, while training."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    check_choice,
    check_in_interval,
    is_inexact,
    scalar_like,
    transformation,
)
from hpfree_jax.hypergradients._tangent import (
    flat_root_at_zero,
    like_floats,
    push_forward,
    split,
)


class Tangent(NamedTuple):
    """Derivative of the training state with respect to one hyperparameter, Z."""

    params: PyTree  # like params, in the precision of the scalars; None if not a float
    inner_state: PyTree | None  # like the inner state; None when the discount is 0


class HypergradientState(NamedTuple):
    """State of :func:`hypergradient`; scalars are float32, or float64 under x64."""

    count: Int[Array, ""]  # int32, steps taken: calls with finite gradients
    hyperparams: dict[str, Array]  # scalars, used by the last step
    hypergradients: dict[str, Array]  # scalars D of the last call, before any cap
    discount: Float[Array, ""]  # mu, used by the last step
    hyper_learning_rate: Float[Array, ""] | None  # beta; None: a transformation rules
    tangents: dict[str, Tangent]  # Z at the parameters that the last step led to
    inner_state: PyTree  # of `inner`, on parameters of the precision of the scalars
    num_non_finite: Int[Array, ""]  # int32, calls with a hypergradient left unused
    signals: dict[str, Array]  # scalars: what moved the hyperparams, D capped or cosine
    signal_product: Float[Array, ""]  # sum over scalars of the last two calls' signals
    discount_count: Float[Array, ""] | None  # c; None: the discount is fixed
    direct_tangents: dict[str, PyTree] | None  # B, like params; None: as above
    hyper_state: PyTree | None  # state of the transformation of the scalars, if any


def hypergradient(
    inner: Callable[..., optax.GradientTransformation],
    hyperparams: Mapping[str, ArrayLike],
    hyper_learning_rate: ArrayLike | optax.GradientTransformation = 1e-4,
    *,
    discount: ArrayLike | None = 1.0,
    rule: str = "additive",
    adaptation_rate: ArrayLike = 0.0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    clip_hypergradient: ArrayLike | None = None,
    adaptation_steps: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains with ``inner`` while its scalars descend their own hypergradient.

    With :math:`s = (w, \text{inner state})`, one step of ``inner`` is
    :math:`s_{t+1} = \Phi_t(s_t, h_t)`. For each scalar :math:`h`, forward mode carries
    the tangent :math:`Z_t`, which approaches :math:`ds_t / dh` as the discount
    :math:`\mu` (``discount``) approaches 1. Call :math:`t = 0, 1, \dots` computes

    .. math::
        D_t &= \langle \nabla E(w_t), Z_t \rangle, \quad Z_0 = 0 \\
        h_t &= \text{project}(h_{t-1} - \beta_t D_t) \\
        w_{t+1} &= w_t + \text{updates}(w_t, h_t) \\
        Z_{t+1} &= \mu A_t Z_t + B_t, \quad
            A_t = \partial\Phi_t / \partial s, \; B_t = \partial\Phi_t / \partial h

    by one ``jax.jvp`` through ``inner.update``, whose gradient tangent is the
    Hessian-vector product of ``value_fn``. No formula is specific to an optimizer, so
    decay, clipping, masks and schedules inside ``inner`` are differentiated as well.
    The derivative of a square root at 0 is taken as 0 (Adam's second moment).

    Args:
      inner: a factory, whose keyword arguments are hyperparameters: ``optax.adamw``,
        ``functools.partial(optax.sgd, momentum=0.9)``, or your own function. It is
        called at each trace, with JAX scalars for the names in ``hyperparams``.
      hyperparams: the scalars to adapt, by name, with their initial values.
      hyper_learning_rate: :math:`\beta`, in units of :math:`h^2` per loss (additive),
        or the largest relative change per step (multiplicative). Or an optax
        transformation, which turns :math:`D_t` into the change of the scalars.
      discount: :math:`\mu` in [0, 1]. A Python 0 is HD (no Hessian-vector product, no
        ``value_fn``), 1 RTHO, between them MARTHE. None adapts it as MARTHE's authors
        do: :math:`q_t = D_t / \langle B_t, \nabla E(w_{t+1}) \rangle`,
        :math:`c_t = (c_{t-1} + 1)\mu_{t-1}`,
        :math:`\mu_t = \text{clip}(q_t, 0, 1)^{1/(c_t + 1)}`, with
        :math:`\mu_0 = c_0 = 0`, computed at call t + 1. A quotient without a finite
        value counts as 0; of several scalars, the clipped quotients are averaged.
      rule: ``"additive"``, or ``"multiplicative"``, which does not depend on the
        scales of the loss and of the scalar:
        :math:`h_t = h_{t-1}(1 - \beta_t \cos(\nabla E(w_t), Z_t))`.
      adaptation_rate: :math:`\alpha`, in :math:`\beta_t = \max(0, \beta_{t-1} + \alpha
        D_{t-1} D_{t-2})`, summed over the scalars (cosines for D if multiplicative).
      bounds: (low, high) by name; scalars are projected to them, ends included.
        ``{"learning_rate": (0, inf)}`` holds unless a pair for it is given.
      clip_hypergradient: cap on the size of what moves a scalar: D, or the cosine.
      adaptation_steps: the scalars stay as they are after that many steps; None:
        they never stop. To stop paying as well, continue with
        ``inner(**state.hyperparams)`` from ``state.inner_state``.

    Returns:
      A complete optimizer, with the state :class:`HypergradientState`.
      ``update`` needs ``params`` and, unless the discount is a Python 0, ``value_fn``:
      the loss as a function of ``params`` whose gradient is ``updates`` (XLA merges
      the two where one ``jit`` has both). ``validation_fn`` is :math:`E`, a function
      of ``params``; left out, it is the training loss, at no cost.

      A gradient (or update) that is not finite: zero updates, and the state stays,
      but for tangents that restart at zero. A hypergradient or tangent that is not
      finite: its scalar stays and its tangent restarts. ``num_non_finite`` counts
      such calls.

      Everything is computed in the precision of the scalars, the inner state too;
      updates have the dtype of ``params``.

    Raises:
      TypeError, ValueError: in the factory, if an argument is out of range or the
        factory ``inner`` does not take a name; at the first trace, if ``value_fn`` or
        ``params`` is missing, or a loss is not a scalar.

    References:
      Baydin et al., `Online Learning Rate Adaptation with Hypergradient Descent
      <https://arxiv.org/abs/1703.04782>`_, 2018. Franceschi et al., `Forward and
      Reverse Gradient-Based Hyperparameter Optimization
      <https://arxiv.org/abs/1703.01785>`_, 2017. Donini et al., `MARTHE: Scheduling
      the Learning Rate Via Online Hypergradients
      <https://arxiv.org/abs/1910.08525>`_, 2020.

    >>> loss = lambda w: (w - 3.0) ** 2
    >>> tx = hypergradient(optax.sgd, {"learning_rate": 0.25}, 0.001)
    >>> w = jnp.array(1.0)
    >>> state = tx.init(w)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
    ...     w = optax.apply_updates(w, updates)
    >>> print(state.hypergradients["learning_rate"])  # d (w_1 - 3)^2 / d rate = -2 * 4
    -8.0
    >>> print(state.hyperparams["learning_rate"])  # 0.25 - 0.001 * (-8)
    0.258
    """
    starts = _check_hyperparams(inner, hyperparams)
    limits = _check_bounds(bounds, starts)
    check_choice("rule", rule, ("additive", "multiplicative"))
    is_transformation = isinstance(hyper_learning_rate, optax.GradientTransformation)
    _check_rates(
        None if is_transformation else hyper_learning_rate, rule, adaptation_rate
    )
    if discount is not None:
        _check_discount(discount)
    if clip_hypergradient is not None:
        check_in_interval("clip_hypergradient", clip_hypergradient, 0, math.inf)
    if adaptation_steps is not None:
        check_in_interval(
            "adaptation_steps", adaptation_steps, 0, math.inf, include_low=True
        )
    # Under inject_hyperparams numbers are arrays: only a Python 0 turns a part off.
    is_myopic = _is_python_zero(discount)
    is_rate_adapted = not is_transformation and not _is_python_zero(adaptation_rate)
    is_discount_adapted = discount is None

    def init_fn(params):
        dtype = accumulator_dtype()
        scalar = lambda value=0.0, dtype=dtype: scalar_like(params, value, dtype)
        by_name = lambda make: {name: make() for name in starts}
        zeros = lambda tree: jax.tree.map(
            lambda leaf: jnp.zeros_like(leaf) if is_inexact(leaf) else None, tree
        )
        # New buffers on the mesh of the parameters: not shared with them, so that
        # both can be donated, and of the type that they will have after an update.
        own = lambda tree: jax.tree.map(
            lambda leaf: jnp.where(scalar() == 0, leaf, leaf), tree
        )
        values = {name: scalar(start) for name, start in starts.items()}
        floats = _floats(params)
        inner_state = own(inner(**values).init(floats))
        return HypergradientState(
            count=scalar(0, jnp.int32),
            hyperparams=values,
            hypergradients=by_name(scalar),
            discount=scalar(0.0 if is_discount_adapted else discount),
            hyper_learning_rate=None
            if is_transformation
            else scalar(hyper_learning_rate),
            tangents=by_name(
                lambda: Tangent(
                    zeros(floats), None if is_myopic else zeros(inner_state)
                )
            ),
            inner_state=inner_state,
            num_non_finite=scalar(0, jnp.int32),
            signals=by_name(scalar),
            signal_product=scalar(),
            discount_count=scalar() if is_discount_adapted else None,
            direct_tangents=by_name(lambda: zeros(floats))
            if is_discount_adapted
            else None,
            hyper_state=own(hyper_learning_rate.init(values))
            if is_transformation
            else None,
        )

    def update_fn(
        updates, state, params=None, *, value_fn=None, validation_fn=None, **extra_args
    ):
        _check_update_args(params, value_fn, is_myopic)
        dtype = accumulator_dtype()
        extra_args = {
            **extra_args,
            **({} if value_fn is None else {"value_fn": value_fn}),
        }
        grads = _floats(updates)
        if validation_fn is None:
            target = jax.tree.leaves(grads)
        else:
            gradient, floats = _gradient("validation_fn", validation_fn, params)
            target = _cast(gradient(floats), dtype)

        # 1. Hypergradients; a tangent that does not give a finite one restarts.
        raw = {
            name: _dot(target, jax.tree.leaves(state.tangents[name].params))
            for name in starts
        }
        is_usable = {name: jnp.isfinite(value) for name, value in raw.items()}
        hypergradients = _where(is_usable, raw, 0)
        tangents = {
            name: _where(is_usable[name], state.tangents[name], 0) for name in starts
        }
        new_discount, discount_count = state.discount, state.discount_count
        if is_discount_adapted:
            new_discount, discount_count = _adapt_discount(state, target)
        else:
            new_discount = jnp.asarray(discount, dtype) + 0 * state.discount

        # 2. The scalars move.
        signals = hypergradients
        if rule == "multiplicative":
            signals = {
                name: _cosine(
                    value, target, jax.tree.leaves(state.tangents[name].params)
                )
                for name, value in hypergradients.items()
            }
            signals = _where(is_usable, signals, 0)
        if clip_hypergradient is not None:
            cap = jnp.asarray(clip_hypergradient, dtype)
            signals = {name: jnp.clip(s, -cap, cap) for name, s in signals.items()}
        rate, hyper_state = state.hyper_learning_rate, state.hyper_state
        if is_transformation:
            changes, hyper_state = optax.with_extra_args_support(
                hyper_learning_rate
            ).update(signals, state.hyper_state, state.hyperparams)
        else:
            if is_rate_adapted:
                alpha = jnp.asarray(adaptation_rate, dtype)
                rate = jnp.maximum(0, rate + alpha * state.signal_product)
            else:
                rate = jnp.asarray(hyper_learning_rate, dtype) + 0 * rate
            changes = {name: -rate * signal for name, signal in signals.items()}
        values = {}
        for name, value in state.hyperparams.items():
            change = changes[name].astype(dtype)
            change = value * change if rule == "multiplicative" else change
            low, high = limits.get(name, (-math.inf, math.inf))
            moved = jnp.clip(value + change, low, high)
            may_move = is_usable[name] & jnp.isfinite(moved)
            if adaptation_steps is not None:
                may_move &= state.count < adaptation_steps
            values[name] = jnp.where(may_move, moved, value)

        # 3 and 4. The step, its derivative, and the new tangents.
        if is_myopic:
            gradient_tangents = dict.fromkeys(starts)
        else:
            gradient_tangents = _hessian_vector_products(
                value_fn, params, tangents, new_discount
            )
        new_updates, inner_state, new_tangents, direct_tangents = _step(
            inner,
            grads,
            state.inner_state,
            _floats(params),
            values,
            tangents,
            gradient_tangents,
            new_discount,
            is_discount_adapted,
            extra_args,
        )

        is_finite = _all_finite((grads, new_updates))
        is_tangent_finite = {
            name: is_finite & _all_finite((tangent, (direct_tangents or {}).get(name)))
            for name, tangent in new_tangents.items()
        }
        all_usable = is_finite
        for name in starts:
            all_usable &= is_usable[name] & is_tangent_finite[name]
        keep = lambda new, old: jax.tree.map(
            lambda new, old: jnp.where(is_finite, new.astype(old.dtype), old), new, old
        )
        restart = lambda tree: {
            name: _where(is_tangent_finite[name], tree[name], 0) for name in starts
        }
        signal_product = sum(
            (signals[name] * state.signals[name] for name in starts),
            start=jnp.zeros_like(state.signal_product),
        )
        new_state = HypergradientState(
            count=keep(optax.safe_increment(state.count), state.count),
            hyperparams=keep(values, state.hyperparams),
            hypergradients=_where(is_finite, hypergradients, 0),
            discount=keep(new_discount, state.discount),
            hyper_learning_rate=keep(rate, state.hyper_learning_rate),
            tangents=restart(new_tangents),
            inner_state=keep(inner_state, state.inner_state),
            num_non_finite=state.num_non_finite + (~all_usable).astype(jnp.int32),
            signals=_where(is_finite, signals, 0),
            signal_product=jnp.where(is_finite, signal_product, 0),
            discount_count=keep(discount_count, state.discount_count),
            direct_tangents=restart(direct_tangents) if direct_tangents else None,
            hyper_state=keep(hyper_state, state.hyper_state),
        )
        return _like_params(new_updates, updates, params, is_finite), new_state

    return transformation(init_fn, update_fn)


def _step(
    inner,
    grads,
    inner_state,
    params,
    values,
    tangents,
    gradient_tangents,
    discount,
    wants_direct_tangents,
    extra_args,
):
    """One step of ``inner`` and its derivatives.

    Returns updates and inner state, and by name the tangents mu A Z + B of the state
    and (if wanted) the direct tangents B of the updates.
    """
    grad_leaves, merge_grads = split(grads)
    param_leaves, merge_params = split(params)
    state_leaves, merge_state = split(inner_state)

    def step(values, grad_leaves=grad_leaves, state_leaves=state_leaves, params=params):
        updates, new_state = optax.with_extra_args_support(inner(**values)).update(
            merge_grads(grad_leaves), merge_state(state_leaves), params, **extra_args
        )
        floats = (split(updates)[0], split(new_state)[0])
        return floats, (updates, new_state)

    def full_step(values, grad_leaves, state_leaves, param_leaves):
        return step(values, grad_leaves, state_leaves, merge_params(param_leaves))

    is_myopic = all(tangent is None for tangent in gradient_tangents.values())
    unit = {
        name: {other: jnp.full_like(values[other], other == name) for other in values}
        for name in values
    }
    if is_myopic:
        function, primals = step, (values,)
        directions = [(unit[name],) for name in values]
    else:
        function = full_step
        primals = (values, grad_leaves, state_leaves, param_leaves)
        carry = lambda tree: [discount * leaf for leaf in jax.tree.leaves(tree)]
        directions = [
            (
                unit[name],
                gradient_tangents[name],
                carry(tangents[name].inner_state),
                carry(tangents[name].params),
            )
            for name in values
        ]
        if wants_direct_tangents:
            zeros = [jax.tree.map(jnp.zeros_like, primal) for primal in primals[1:]]
            directions += [(unit[name], *zeros) for name in values]

    _, pushed, (updates, new_state) = push_forward(
        flat_root_at_zero(function), primals, directions
    )
    new_tangents = {}
    for name, direction, (update_tangent, state_tangent) in zip(
        values, directions, pushed, strict=False
    ):
        if is_myopic:
            new_tangents[name] = Tangent(like_floats(params, update_tangent), None)
        else:
            moved = [z + u for z, u in zip(direction[3], update_tangent, strict=True)]
            new_tangents[name] = Tangent(
                like_floats(params, moved), like_floats(new_state, state_tangent)
            )
    direct_tangents = None
    if wants_direct_tangents:
        direct_tangents = {
            name: like_floats(params, update_tangent)
            for name, (update_tangent, _) in zip(
                values, pushed[len(values) :], strict=True
            )
        }
    return updates, new_state, new_tangents, direct_tangents


def _hessian_vector_products(value_fn, params, tangents, discount):
    """By name, the leaves of H (mu Z), the tangent of the gradient."""
    gradient, floats = _gradient("value_fn", value_fn, params)
    directions = [
        (
            [
                (discount * z).astype(leaf.dtype)
                for z, leaf in zip(jax.tree.leaves(tangent.params), floats, strict=True)
            ],
        )
        for tangent in tangents.values()
    ]
    _, products, _ = push_forward(
        lambda floats: (gradient(floats), None), (floats,), directions
    )
    return {
        name: _cast(product, accumulator_dtype())
        for name, product in zip(tangents, products, strict=True)
    }


def _gradient(name, value_fn, params):
    """Returns the gradient as a function of the floating-point leaves, and these."""
    floats, merge = split(params)

    def value_of(floats):
        value = value_fn(merge(floats))
        if not hasattr(value, "dtype") or value.shape != () or not is_inexact(value):
            found = jax.tree.map(jnp.shape, value)
            raise ValueError(
                f"`{name}` must return a real scalar, got shape {found}. Return the "
                f"mean over the batch, without auxiliary output: {name}=lambda "
                "params: loss(params, batch).mean()."
            )
        return value

    return jax.grad(value_of), floats


def _adapt_discount(state, target):
    """MARTHE's rule: mu and c, from last call's D and B and the gradient now."""
    quotients = []
    for name, direct in state.direct_tangents.items():
        expected = _dot(target, jax.tree.leaves(direct))
        is_safe = (expected != 0) & jnp.isfinite(expected)
        quotient = state.hypergradients[name] / jnp.where(is_safe, expected, 1)
        quotient = jnp.where(is_safe & jnp.isfinite(quotient), quotient, 0)
        quotients.append(jnp.clip(quotient, 0, 1))
    mean = sum(quotients) / len(quotients)
    count = (state.discount_count + 1) * state.discount
    return mean ** (1 / (count + 1)), count


def _dot(one, other):
    """The real inner product of two lists of leaves, in the precision of scalars."""
    # A sum and not a vdot, which fails on leaves sharded along their last axis.
    products = [jnp.real(jnp.sum(a * b)) for a, b in zip(one, other, strict=True)]
    return sum(products, start=jnp.zeros((), accumulator_dtype()))


def _cosine(dot, one, other):
    # Scaled by the largest entry first: squares must neither overflow nor vanish.
    norm = _norm(one) * _norm(other)
    return jnp.where(norm > 0, dot / jnp.where(norm > 0, norm, 1), 0)


def _norm(leaves):
    squares = [jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in leaves]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), accumulator_dtype())))


def _all_finite(tree):
    flags = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if is_inexact(x)]
    return sum((~flag for flag in flags), start=jnp.zeros((), jnp.int32)) == 0


def _where(flag, tree, value):
    """The tree where the flag, or the tree of flags, holds, and a value elsewhere."""
    if isinstance(flag, dict):
        return {name: jnp.where(flag[name], tree[name], value) for name in tree}
    return jax.tree.map(lambda leaf: jnp.where(flag, leaf, value), tree)


def _cast(leaves, dtype):
    return [leaf.astype(jnp.promote_types(leaf.dtype, dtype)) for leaf in leaves]


def _floats(tree):
    """The tree in at least the precision of scalars; MaskedNode for other leaves."""
    dtype = accumulator_dtype()
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.promote_types(leaf.dtype, dtype))
            if is_inexact(leaf)
            else optax.MaskedNode()
        ),
        tree,
    )


def _like_params(new_updates, updates, params, is_finite):
    """The updates in the dtype of params; zero for a leaf that is not a float."""
    new_leaves = iter(jax.tree.leaves(new_updates))

    def restore(update, param):
        if is_inexact(update):
            new = next(new_leaves)
            return jnp.where(is_finite, new, 0).astype(param.dtype)
        if jnp.issubdtype(param.dtype, jnp.number) or param.dtype == bool:
            return jnp.zeros(param.shape, param.dtype)
        return update  # a random key, which has no zero

    return jax.tree.map(restore, updates, params)


def _check_hyperparams(inner, hyperparams):
    if not callable(inner):
        raise TypeError(
            "`inner` must be a factory, such as optax.sgd or functools.partial("
            f"optax.sgd, momentum=0.9), and not what it makes; got {inner!r}."
        )
    if not isinstance(hyperparams, Mapping) or not hyperparams:
        raise TypeError(
            "`hyperparams` must map the names to adapt to their initial values, as "
            f'in {{"learning_rate": 0.1}}; got {hyperparams!r}.'
        )
    parameters = inspect.signature(inner).parameters.values()
    named = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name, value in hyperparams.items():
        if name not in named and not takes_any:
            raise ValueError(
                f"`hyperparams` names {name!r}, which {_name_of(inner)} does not "
                f"take. It takes: {', '.join(named)}."
            )
        if isinstance(value, jax.Array | np.ndarray | np.number):
            is_scalar = (value.shape == () and is_inexact(value)) or value.ndim == 0
        else:
            is_scalar = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_scalar:
            raise TypeError(
                f"`hyperparams[{name!r}]` must be a number or a JAX scalar, its "
                f"initial value; got {value!r}. One scalar is adapted for all "
                "parameters; for one per group use optax.partition."
            )
        if not isinstance(value, jax.Array) and not np.isfinite(value):
            raise ValueError(f"`hyperparams[{name!r}]` must be finite, got {value}.")
    return dict(hyperparams)


def _name_of(inner):
    return getattr(getattr(inner, "func", inner), "__name__", repr(inner))


def _check_bounds(bounds, starts):
    default = {"learning_rate": (0.0, math.inf)} if "learning_rate" in starts else {}
    limits = {**default, **(bounds or {})}
    for name, pair in limits.items():
        if name not in starts:
            raise ValueError(
                f"`bounds` names {name!r}, which is not among the `hyperparams`: "
                f"{', '.join(starts)}."
            )
        if not isinstance(pair, tuple | list) or len(pair) != 2 or pair[0] > pair[1]:
            raise ValueError(
                f"`bounds[{name!r}]` must be a pair (low, high), got {pair!r}."
            )
        start = starts[name]
        if not isinstance(start, jax.Array) and not pair[0] <= start <= pair[1]:
            raise ValueError(
                f"`hyperparams[{name!r}]` starts at {start}, outside of its `bounds` "
                f"[{pair[0]}, {pair[1]}]. Start inside, or pass "
                f"bounds={{{name!r}: (low, high)}}."
            )
    return limits


def _check_rates(hyper_learning_rate, rule, adaptation_rate):
    inf = math.inf
    check_in_interval("adaptation_rate", adaptation_rate, 0, inf, include_low=True)
    if hyper_learning_rate is None:
        if not _is_python_zero(adaptation_rate):
            raise ValueError(
                "`adaptation_rate` adapts a number, and `hyper_learning_rate` is an "
                f"optax transformation: leave it at 0, got {adaptation_rate}."
            )
        return
    high = 1 if rule == "multiplicative" else inf
    check_in_interval(
        "hyper_learning_rate", hyper_learning_rate, 0, high, include_low=True
    )


def _check_discount(discount):
    if isinstance(discount, jax.Array):
        return
    is_number = isinstance(discount, int | float | np.number)
    if not is_number or isinstance(discount, bool) or not 0 <= discount <= 1:
        raise ValueError(
            "`discount` must lie in [0, 1], or be None to adapt it; got "
            f"{discount!r}. 0 is HD, 1 is RTHO."
        )


def _is_python_zero(value):
    return isinstance(value, int | float) and value == 0


def _check_update_args(params, value_fn, is_myopic):
    if params is None:
        raise ValueError(
            "hypergradient needs `params`: call tx.update(grads, state, params, ...)."
        )
    if value_fn is None and not is_myopic:
        raise TypeError(
            "hypergradient needs `value_fn`, the training loss as a function of the "
            "parameters, for its Hessian-vector product: call tx.update(grads, state, "
            "params, value_fn=lambda params: loss(params, batch)). Only discount=0 "
            "(hp.hd) does without."
        )
