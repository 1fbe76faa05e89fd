"""The published hypergradient methods, as settings of one engine."""

from collections.abc import Callable, Mapping
from typing import Any

import optax
from jax.typing import ArrayLike

from hpfree_jax.hypergradients._hypergradient import hypergradient
from hpfree_jax.hypergradients._rules import Rule

ADAPTATION_RATE = 1e-6  # alpha, the upper end of the range of MARTHE's authors
RELATIVE_RATE = 0.05  # the most that a scalar changes in a step, of itself


def _rule(rule: Rule | None, hyper_learning_rate: Any) -> Rule:
    """The rule meant: scale-free, unless a rate of the additive one is given."""
    if rule == "additive" and hyper_learning_rate is None:
        raise ValueError(
            'rule="additive" needs a `hyper_learning_rate`, in units of the rate '
            "squared per loss: see hp.find_hyper_learning_rate."
        )
    if rule is not None:
        return rule
    return "multiplicative" if hyper_learning_rate is None else "additive"


def hd(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: ArrayLike,
    hyper_learning_rate: ArrayLike | optax.GradientTransformation | None = None,
    *,
    rule: Rule | None = None,
    adaptation_rate: ArrayLike = 0.0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    clip_hypergradient: ArrayLike | None = None,
    adaptation_steps: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Hypergradient descent: the learning rate follows the last step only.

    :func:`hypergradient` with discount 0: no Hessian-vector product, no ``value_fn``.

    Without a ``hyper_learning_rate`` (or with ``rule="multiplicative"`` and one) the
    rule is multiplicative, which needs no tuning: at most 5 % a step. A
    ``hyper_learning_rate`` alone is that of the published additive rule. The other
    arguments are those of :func:`hypergradient`.

    >>> import jax, jax.numpy as jnp
    >>> tx = hd(optax.sgd, 0.25, 0.01)
    >>> w = jnp.array(1.0)
    >>> state = tx.init(w)
    >>> for _ in range(2):  # minimises (w - 3)^2, gradients -4 and -2
    ...     updates, state = tx.update(2 * (w - 3), state, w)
    ...     w = optax.apply_updates(w, updates)
    >>> print(f"{state.hyperparams['learning_rate']:.2f}")  # 0.25 + 0.01 * 4 * 2
    0.33
    """
    return hypergradient(
        inner,
        {"learning_rate": learning_rate},
        RELATIVE_RATE if hyper_learning_rate is None else hyper_learning_rate,
        discount=0,
        rule=_rule(rule, hyper_learning_rate),
        adaptation_rate=adaptation_rate,
        bounds=bounds,
        clip_hypergradient=clip_hypergradient,
        adaptation_steps=adaptation_steps,
    )


def rtho(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: ArrayLike,
    hyper_learning_rate: ArrayLike | optax.GradientTransformation,
    *,
    rule: Rule = "additive",
    adaptation_rate: ArrayLike = 0.0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    clip_hypergradient: ArrayLike | None = None,
    adaptation_steps: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Real-time hyperparameter optimization: the whole past counts, undiscounted.

    :func:`hypergradient` with discount 1. The other arguments are
    those of :func:`hypergradient`.
    """
    return hypergradient(
        inner,
        {"learning_rate": learning_rate},
        hyper_learning_rate,
        discount=1,
        rule=rule,
        adaptation_rate=adaptation_rate,
        bounds=bounds,
        clip_hypergradient=clip_hypergradient,
        adaptation_steps=adaptation_steps,
    )


def marthe(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: ArrayLike,
    hyper_learning_rate: ArrayLike | optax.GradientTransformation | None = None,
    *,
    discount: ArrayLike | None = None,
    rule: Rule | None = None,
    adaptation_rate: ArrayLike = ADAPTATION_RATE,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    clip_hypergradient: ArrayLike | None = None,
    adaptation_steps: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """MARTHE: the past counts by a discount, adaptive unless a number is given.

    :func:`hypergradient` with MARTHE's defaults; the rule without a
    ``hyper_learning_rate`` is that of :func:`hd`. The default ``adaptation_rate``
    adapts a number, and is 0 where ``hyper_learning_rate`` is an optax transformation.
    The other arguments are those of :func:`hypergradient`.
    """
    if (
        isinstance(hyper_learning_rate, optax.GradientTransformation)
        and isinstance(adaptation_rate, float)
        and adaptation_rate == ADAPTATION_RATE
    ):
        adaptation_rate = 0.0
    return hypergradient(
        inner,
        {"learning_rate": learning_rate},
        RELATIVE_RATE if hyper_learning_rate is None else hyper_learning_rate,
        discount=discount,
        rule=_rule(rule, hyper_learning_rate),
        adaptation_rate=adaptation_rate,
        bounds=bounds,
        clip_hypergradient=clip_hypergradient,
        adaptation_steps=adaptation_steps,
    )
