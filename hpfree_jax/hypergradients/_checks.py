"""Checks of what a hypergradient method is given, each with its remedy."""

import inspect
import math
from collections.abc import Mapping

import jax
import numpy as np
import optax

from hpfree_jax._base import check_in_interval


def check_hyperparams(inner, hyperparams):
    """Returns the starts; raises unless ``inner`` takes the names, as scalars."""
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
            is_scalar = value.shape == ()
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


def make_optimizer(inner, values):
    """Returns what the factory makes of the scalars, an optax transformation."""
    optimizer = inner(**values)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"`inner` must return an optax transformation; {_name_of(inner)} returned "
            f"{optimizer!r}."
        )
    return optimizer


def _name_of(inner):
    return getattr(getattr(inner, "func", inner), "__name__", repr(inner))


def check_bounds(bounds, starts):
    """Returns the bounds by name, with the default one of the learning rate."""
    if bounds is not None and not isinstance(bounds, Mapping):
        raise TypeError(
            "`bounds` must map names to pairs, as in {"
            f'"learning_rate": (0.0, 1.0)}}; got {bounds!r}.'
        )
    default = {"learning_rate": (0.0, math.inf)} if "learning_rate" in starts else {}
    limits = {**default, **(bounds or {})}
    for name, pair in limits.items():
        if name not in starts:
            raise ValueError(
                f"`bounds` names {name!r}, which is not among the `hyperparams`: "
                f"{', '.join(starts)}."
            )
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        is_number = is_pair and all(
            isinstance(end, int | float | np.number) for end in pair
        )
        if not is_number or not pair[0] <= pair[1]:
            raise ValueError(
                f"`bounds[{name!r}]` must be a pair (low, high) of numbers; "
                f"got {pair!r}."
            )
        start = starts[name]
        if not isinstance(start, jax.Array) and not pair[0] <= start <= pair[1]:
            raise ValueError(
                f"`hyperparams[{name!r}]` starts at {start}, outside of its `bounds` "
                f"[{pair[0]}, {pair[1]}]. Start inside, or pass "
                f"bounds={{{name!r}: (low, high)}}."
            )
    return limits


def check_starts_are_positive(starts):
    """Raises unless the multiplicative rule can move each start, and the right way."""
    for name, start in starts.items():
        if not isinstance(start, jax.Array) and not start > 0:
            raise ValueError(
                f'rule="multiplicative" needs starts above 0, but `hyperparams'
                f"[{name!r}]` is {start}: start above 0 or use the additive rule."
            )


def check_rates(hyper_learning_rate, rule, adaptation_rate):
    """Checks beta (None if a transformation takes its place) and alpha."""
    inf = math.inf
    check_in_interval("adaptation_rate", adaptation_rate, 0, inf, include_low=True)
    if hyper_learning_rate is None:
        if not is_python_zero(adaptation_rate):
            raise ValueError(
                "`adaptation_rate` adapts a number, and `hyper_learning_rate` is an "
                f"optax transformation: leave it at 0, got {adaptation_rate}."
            )
        return
    high = 1 if rule == "multiplicative" else inf
    check_in_interval(
        "hyper_learning_rate", hyper_learning_rate, 0, high, include_low=True
    )


def check_discount(discount):
    """Raises unless the discount is in [0, 1]; arrays are not looked at."""
    if isinstance(discount, jax.Array):
        return
    is_number = isinstance(discount, int | float | np.number)
    if not is_number or isinstance(discount, bool) or not 0 <= discount <= 1:
        raise ValueError(
            "`discount` must lie in [0, 1], or be None to adapt it; got "
            f"{discount!r}. 0 is HD, 1 is RTHO."
        )


def is_python_zero(value):
    """Whether a part is off for good; an array may be a tracer that holds 0."""
    return isinstance(value, int | float) and value == 0


def check_update_args(params, value_fn, validation_fn, is_myopic):
    """Raises, with the call that is right, if an argument is missing."""
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
    for name, function in (("value_fn", value_fn), ("validation_fn", validation_fn)):
        if function is not None and not callable(function):
            raise TypeError(
                f"`{name}` must be a function of the parameters and not a value: pass "
                f"{name}=lambda params: loss(params, batch); got {function!r}."
            )
