"""Hyperparameters that follow the exact derivative of the loss, while training."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from hpfree_jax._base import (
    accumulator_dtype,
    all_finite,
    check_choice,
    check_in_interval,
    finish,
    is_inexact,
    on_mesh_of,
    scalar_like,
    transformation,
)
from hpfree_jax.hypergradients._checks import (
    check_bounds,
    check_discount,
    check_hyperparams,
    check_rates,
    check_starts_are_positive,
    check_update_args,
    is_python_zero,
    make_optimizer,
)
from hpfree_jax.hypergradients._leaves import as_dtype_of, to_floats, where
from hpfree_jax.hypergradients._rules import Rule, adapt_discount, cosine, dot
from hpfree_jax.hypergradients._tangent import (
    Tangent,
    cast,
    gradient_of,
    hessian_vector_products,
    step_with_tangents,
)


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
    rule: Rule = "additive",
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
      rule: ``"additive"``, or ``"multiplicative"`` for positive scalars, which does
        not depend on the scales of the loss and of the scalar:
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
      of ``params``; left out, it is the training loss, at no cost. Complex leaves:
      ``updates`` is the conjugate of what ``jax.grad`` returns, as for all of optax.

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
    starts = check_hyperparams(inner, hyperparams)
    limits = check_bounds(bounds, starts)
    check_choice("rule", rule, get_args(Rule))
    if rule == "multiplicative":
        check_starts_are_positive(starts)
    fixed_rate: Any = hyper_learning_rate
    hyper_optimizer: Any = None  # turns hypergradients into changes of the scalars
    if isinstance(hyper_learning_rate, optax.GradientTransformation):
        hyper_optimizer = optax.with_extra_args_support(hyper_learning_rate)
        fixed_rate = None
    check_rates(fixed_rate, rule, adaptation_rate)
    if discount is not None:
        check_discount(discount)
    if clip_hypergradient is not None:
        check_in_interval("clip_hypergradient", clip_hypergradient, 0, math.inf)
    if adaptation_steps is not None:
        check_in_interval(
            "adaptation_steps", adaptation_steps, 0, math.inf, include_low=True
        )
    settings = _Settings(
        inner=inner,
        starts=starts,
        limits=limits,
        rate=fixed_rate,
        hyper_optimizer=hyper_optimizer,
        discount=discount,
        is_multiplicative=rule == "multiplicative",
        adaptation_rate=adaptation_rate,
        cap=clip_hypergradient,
        adaptation_steps=adaptation_steps,
    )

    def init_fn(params):
        return _init(settings, params)

    def update_fn(
        updates, state, params=None, *, value_fn=None, validation_fn=None, **extra_args
    ):
        check_update_args(params, value_fn, validation_fn, settings.is_myopic)
        if value_fn is not None:
            extra_args["value_fn"] = value_fn
        grads = to_floats(updates)
        if validation_fn is None:
            target = jax.tree.leaves(grads)
        else:
            gradient, floats = gradient_of("validation_fn", validation_fn, params)
            target = cast(gradient(floats), accumulator_dtype())
        measured = _measure(settings, state, target)
        moved = _move_scalars(settings, state, measured)

        # 3 and 4. The step, its derivative, and the new tangents.
        # Tangents are finite, so that times 0 one restarts whose D was not.
        weights = where(measured.is_usable, dict.fromkeys(starts, measured.discount), 0)
        if settings.is_myopic:
            gradient_tangents = dict.fromkeys(starts)
        else:
            gradient_tangents = hessian_vector_products(
                value_fn, params, state.tangents, weights
            )
        new_updates, inner_state, tangents, direct_tangents = step_with_tangents(
            inner,
            grads,
            state.inner_state,
            to_floats(params),
            moved.values,
            state.tangents,
            gradient_tangents,
            weights,
            settings.is_discount_adapted,
            extra_args,
        )
        is_finite = all_finite((grads, new_updates))
        new_state = state._replace(
            inner_state=inner_state, tangents=tangents, direct_tangents=direct_tangents
        )
        new_state = _next_state(new_state, state, measured, moved, is_finite)
        return finish(new_updates, updates, params, is_finite), new_state

    return transformation(init_fn, update_fn)


class _Settings(NamedTuple):
    """The arguments of :func:`hypergradient`, checked.

    Under inject_hyperparams numbers are arrays: only a Python 0 turns a part off.
    """

    inner: Callable[..., optax.GradientTransformation]
    starts: dict[str, Any]
    limits: dict[str, tuple[float, float]]
    rate: Any  # beta; None: the transformation rules
    hyper_optimizer: Any  # turns hypergradients into changes of the scalars, or None
    discount: Any
    is_multiplicative: bool
    adaptation_rate: Any
    cap: Any
    adaptation_steps: Any

    @property
    def is_myopic(self) -> bool:
        """Whether the last step alone counts."""
        return is_python_zero(self.discount)

    @property
    def is_discount_adapted(self) -> bool:
        """Whether the discount follows MARTHE's rule."""
        return self.discount is None


class _Measured(NamedTuple):
    """What the first part of a step finds out; by name where it is a dict."""

    hypergradients: dict[str, Array]  # D, 0 where it is not finite
    signals: dict[str, Array]  # what moves the scalars: D or the cosine, capped
    is_usable: dict[str, Array]
    discount: Array
    discount_count: Array | None


class _Moved(NamedTuple):
    """What the second part of a step changes."""

    values: dict[str, Array]  # the scalars
    rate: Array | None
    hyper_state: PyTree | None


def _init(settings, params):
    dtype = accumulator_dtype()
    scalar: Any = lambda value=0.0, dtype=dtype: scalar_like(params, value, dtype)
    by_name = lambda make: {name: make() for name in settings.starts}
    zeros = lambda tree: jax.tree.map(
        lambda leaf: jnp.zeros_like(leaf) if is_inexact(leaf) else None, tree
    )
    # New buffers on the mesh of the parameters: not shared with them, so that both can
    # be donated, and of the type that they will have after an update.
    true = scalar() == 0
    own = lambda tree: jax.tree.map(lambda leaf: jnp.where(true, leaf, leaf), tree)
    values = {name: scalar(start) for name, start in settings.starts.items()}
    floats = to_floats(params)
    inner_state = own(make_optimizer(settings.inner, values).init(floats))
    state_zeros = lambda: None if settings.is_myopic else zeros(inner_state)
    is_adapted, optimizer = settings.is_discount_adapted, settings.hyper_optimizer
    return HypergradientState(
        count=scalar(0, jnp.int32),
        hyperparams=values,
        hypergradients=by_name(scalar),
        discount=scalar(0.0 if is_adapted else settings.discount),
        hyper_learning_rate=None if optimizer else scalar(settings.rate),
        tangents=by_name(lambda: Tangent(zeros(floats), state_zeros())),
        inner_state=inner_state,
        num_non_finite=scalar(0, jnp.int32),
        signals=by_name(scalar),
        signal_product=scalar(),
        discount_count=scalar() if is_adapted else None,
        direct_tangents=by_name(lambda: zeros(floats)) if is_adapted else None,
        hyper_state=own(optimizer.init(values)) if optimizer else None,
    )


def _measure(settings, state, target) -> _Measured:
    """1. Hypergradients, the signals that they become, and the discount."""
    tangents = {
        name: jax.tree.leaves(tangent.params)
        for name, tangent in state.tangents.items()
    }
    raw = {name: dot(target, tangent) for name, tangent in tangents.items()}
    signals = raw
    if settings.is_multiplicative:
        signals = {
            n: cosine(raw[n], target, tangent) for n, tangent in tangents.items()
        }
    is_usable = {name: jnp.isfinite(signal) for name, signal in signals.items()}
    signals = where(is_usable, signals, 0)
    if settings.cap is not None:
        cap = jnp.asarray(settings.cap, accumulator_dtype())
        signals = {name: jnp.clip(s, -cap, cap) for name, s in signals.items()}
    if settings.is_discount_adapted:
        discount, count = adapt_discount(state, target)
    else:
        discount = on_mesh_of(state.discount, settings.discount)
        count = state.discount_count
    hypergradients = {n: jnp.where(jnp.isfinite(d), d, 0) for n, d in raw.items()}
    return _Measured(hypergradients, signals, is_usable, discount, count)


def _move_scalars(settings, state, measured) -> _Moved:
    """2. The scalars move, within their bounds."""
    dtype = accumulator_dtype()
    rate, hyper_state = state.hyper_learning_rate, state.hyper_state
    changes: Any
    if settings.hyper_optimizer:
        changes, hyper_state = settings.hyper_optimizer.update(
            measured.signals, hyper_state, state.hyperparams
        )
    else:
        if is_python_zero(settings.adaptation_rate):
            rate = on_mesh_of(rate, settings.rate)
        else:
            alpha = jnp.asarray(settings.adaptation_rate, dtype)
            moved_rate = jnp.maximum(0, rate + alpha * state.signal_product)
            rate = jnp.where(jnp.isfinite(moved_rate), moved_rate, rate)
        changes = {name: -rate * signal for name, signal in measured.signals.items()}
    values = {}
    for name, value in state.hyperparams.items():
        change = changes[name].astype(dtype)
        change = value * change if settings.is_multiplicative else change
        low, high = settings.limits.get(name, (-math.inf, math.inf))
        moved = jnp.clip(value + change, low, high)
        may_move = measured.is_usable[name] & jnp.isfinite(moved)
        if settings.adaptation_steps is not None:
            may_move &= state.count < settings.adaptation_steps
        values[name] = jnp.where(may_move, moved, value)
    return _Moved(values, rate, hyper_state)


def _next_state(new, state, measured, moved, is_finite) -> HypergradientState:
    """The state after a step, or the old one but for the tangents, which restart.

    Args:
      new: the state with the tangents and the inner state after the step.
      state: the state before it.
      measured: from the first part of the step.
      moved: from the second part.
      is_finite: whether gradients and updates are.
    """
    is_tangent_finite = {
        name: is_finite & all_finite(tangent) for name, tangent in new.tangents.items()
    }
    all_usable = is_finite
    for name, is_usable in measured.is_usable.items():
        all_usable &= is_usable & is_tangent_finite[name]
    keep = lambda new, old: jax.tree.map(
        lambda new, old: jnp.where(is_finite, as_dtype_of(new, old), old), new, old
    )
    signal_product = sum(
        (signal * state.signals[name] for name, signal in measured.signals.items()),
        start=jnp.zeros_like(state.signal_product),
    )
    return HypergradientState(
        count=keep(optax.safe_increment(state.count), state.count),
        hyperparams=keep(moved.values, state.hyperparams),
        hypergradients=where(is_finite, measured.hypergradients, 0),
        discount=keep(measured.discount, state.discount),
        hyper_learning_rate=keep(moved.rate, state.hyper_learning_rate),
        tangents=where(is_tangent_finite, new.tangents, 0),
        inner_state=keep(new.inner_state, state.inner_state),
        num_non_finite=state.num_non_finite + (~all_usable).astype(jnp.int32),
        signals=where(is_finite, measured.signals, 0),
        signal_product=jnp.where(is_finite, signal_product, 0),
        discount_count=keep(measured.discount_count, state.discount_count),
        direct_tangents=new.direct_tangents
        and where(is_tangent_finite, new.direct_tangents, 0),
        hyper_state=keep(moved.hyper_state, state.hyper_state),
    )
