"""AutoWU: a direction of optax with warm-up and peak rate found while training."""

import functools
from typing import Any

import jax
import numpy as np
import optax

import hpfree_jax as hp
from hpfree_jax._settings import Setting
from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._optax import MOMENTUM_HELP, WEIGHT_DECAY

# The directions that AutoWU scales, with their settings; the first is the default.
INNERS: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": WEIGHT_DECAY},
    "adam": {},
    "nadamw": {"weight_decay": WEIGHT_DECAY},
    "sgd": {"momentum": Setting(0.9, MOMENTUM_HELP)},
}
_DIRECTIONS = {
    "adamw": optax.scale_by_adam,
    "adam": optax.scale_by_adam,
    "nadamw": functools.partial(optax.scale_by_adam, nesterov=True),
}


def _build(length: Length, *, inner, weight_decay=0.0, momentum=0.0, **settings):
    if settings["test_every"] is None:
        # An epoch of a long training. With fewer epochs, tests that far apart come too
        # late: the rate grows by max / min over half of the training.
        hundredth = max(length.total_steps // 100, 1)
        settings["test_every"] = min(length.steps_per_epoch, hundredth)
    if inner == "sgd":
        direction = optax.trace(momentum)
    else:
        decay = optax.add_decayed_weights(weight_decay)
        direction = optax.chain(_DIRECTIONS[inner](), decay)
    return hp.autowu(direction, *length, **settings)


def _schedule_state(opt_state) -> hp.AutoWUState:
    is_state = lambda node: isinstance(node, hp.AutoWUState)
    return next(filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)))


def _panels(lines, opt_state):
    del lines  # all of it is in the state
    if opt_state is None or not (state := _schedule_state(opt_state)).test_step:
        return {}  # no test was made
    title = "Last test" if _was_exhausted(state) else "The test that ended warm-up"
    return {title: functools.partial(_draw_test, state=jax.device_get(state))}


def _was_exhausted(state: hp.AutoWUState) -> bool:
    return bool(state.switch_step != state.test_step)


def _draw_test(axes, state: hp.AutoWUState) -> None:
    """Draws the warm-up's losses and what the Gaussian process made of them."""
    losses = np.where(state.is_finite, state.losses, np.nan)[: state.test_step]
    steps = np.linspace(0, state.test_step, len(state.predicted_mean))
    mean, margin = state.predicted_mean, 2 * state.predicted_std
    axes.plot(losses, ".", markersize=2, color="tab:gray", label="loss")
    axes.plot(steps, mean, color="tab:blue", label="predicted")
    band = {"alpha": 0.3, "color": "tab:blue", "linewidth": 0}
    axes.fill_between(steps, mean - margin, mean + margin, **band)
    lowest = steps[np.argmin(mean)]
    label = f"rate {state.best_learning_rate:.2g}"
    axes.axvline(lowest, color="tab:green", linestyle="--", label=label)
    # A divergence towards the end would leave no room for the minimum.
    top = np.nanquantile(losses, 0.98) if np.isfinite(losses).any() else 1.0
    bottom = min(np.nanmin(losses, initial=top), mean.min())
    axes.set_ylim(bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom))
    axes.legend(frameon=False)


AUTOWU_METHODS = {
    "autowu": Method(
        _build,
        {
            "min_learning_rate": Setting(1e-5, "Learning rate of the first step."),
            "max_learning_rate": Setting(1.0, "Largest learning rate to try."),
            "max_warmup_fraction": Setting(
                0.5, "Largest fraction of the steps that may warm up."
            ),
            "test_every": Setting(
                None,
                "Steps between two tests of the warm-up; None: an epoch, or 1 % of the "
                "steps if that is less.",
                int,
            ),
            "immediate_cooldown": Setting(
                False, "Decay right after the warm-up, not only towards the end."
            ),
        },
        "default",
        "arXiv 2107.05855",
        inners=INNERS,
        has_horizon=True,
        is_costly_in_vmap=True,
        metrics={"phase": lambda opt_state: _schedule_state(opt_state).phase},
        panels=_panels,
        remedy="--max-learning-rate",
    )
}
