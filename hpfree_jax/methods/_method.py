"""What a training method tells the trainer about itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from hpfree_jax._errors import look_up
from hpfree_jax._settings import Setting, as_settings, defaults_of

INNER_HELP = "Optimizer whose learning rate is found."

# From the lines of metrics, and the optimizer's state (None if the run diverged), to
# pictures by title; each draws on Matplotlib axes.
Panels = Callable[[Sequence[Mapping[str, Any]], Any], Mapping[str, Callable]]


class Length(NamedTuple):
    """How long a training is, in updates."""

    total_steps: int
    steps_per_epoch: int


class Method(NamedTuple):
    """One row of the table of methods.

    ``build(length, **settings)`` returns an optax transformation, in whose state
    :func:`hpfree_jax.get_learning_rate` finds a rate, NaN if it has none. The training
    step passes it the extra argument ``value``, the loss, and those named in
    ``extra_args``:

    - ``value_fn``: the loss of the step's batch, as a function of the parameters;
    - ``validation_fn``: the loss of a held-out batch in evaluation mode, likewise;
      left out where nothing is held out.

    Neither changes the state of the model.
    """

    build: Callable[..., optax.GradientTransformation]
    settings: Mapping[str, Any]  # each a Setting, or its default alone
    init: str  # the initialisation that belongs to the method, a key of INITS
    reference: str  # one line for the listing
    loss: str = "square"  # of images where none is chosen, a key of LOSSES
    # What build takes of the model too, of: params, architecture, layout.
    model_args: tuple[str, ...] = ()
    # The optimizers whose updates it scales, with their settings, by the setting
    # `inner`; the first is the default.
    inners: Mapping[str, Mapping[str, Any]] = {}
    has_horizon: bool = False  # whether the first steps depend on the length
    # Whether costly work of a few steps is behind a `lax.cond`, whose branches `vmap`
    # would both compute at every step.
    is_costly_in_vmap: bool = False
    extra_args: tuple[str, ...] = ()  # of: value_fn, validation_fn
    validation_fraction: float = 0.0  # of the training data, held out by default
    # Finite scalars of the optimizer's state, written beside the learning rate.
    metrics: Mapping[str, Callable[[Any], jax.Array]] = {}
    # From the optimizer's state and the parameters to those that evaluations use.
    evaluation_params: Callable[[Any, Any], Any] = lambda opt_state, params: params
    panels: Panels = lambda lines, opt_state: {}  # its own part of the curves
    remedy: str = "--learning-rate"  # the options to lower when a run diverges

    def settings_with(self, inner: str | None = None) -> dict[str, Setting]:
        """The settings with an inner optimizer, itself the first of them.

        Args:
          inner: a key of ``inners``; None: the default. Not used if there are none.

        Raises:
          UserError: if the method does not take that optimizer.
        """
        if not self.inners:
            return as_settings(self.settings)
        inner = inner or next(iter(self.inners))
        own = look_up("inner", inner, self.inners)
        chosen = Setting(inner, INNER_HELP, choices=tuple(self.inners))
        return {"inner": chosen, **as_settings(own), **as_settings(self.settings)}

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings of a method that is given none."""
        return defaults_of(self.settings_with())
