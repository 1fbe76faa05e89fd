"""What a training run carries from step to step, and how it begins."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PyTree

import hpfree_jax as hp
from hpfree_jax._user_input import UserError, look_up
from hpfree_jax.data import Dataset
from hpfree_jax.models import build_model
from hpfree_jax.training._config import TrainConfig
from hpfree_jax.training._model_config import trace_model
from hpfree_jax.training._optimizers import METHODS, build_optimizer


class TrainState(NamedTuple):
    """State of a training run; with the configuration, all that continuing needs."""

    step: Int[Array, ""]  # int32, updates made so far
    params: PyTree  # nnx.State of the nnx.Param leaves
    model_state: PyTree  # nnx.State of all else that is mutable, such as statistics
    opt_state: PyTree  # the optimizer's


class Task(NamedTuple):
    """What does not change during a run: the static parts of model and training."""

    train_graph: nnx.GraphDef  # the model in training mode
    eval_graph: nnx.GraphDef  # the same with dropout off and statistics fixed
    optimizer: optax.GradientTransformationExtraArgs
    dataset: Dataset
    batch_size: int
    order_key: Array  # from it and the epoch comes the order of the data

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training data; what is left over waits an epoch."""
        return len(self.dataset.train_labels) // self.batch_size


def start(config: TrainConfig, dataset: Dataset) -> tuple[Task, TrainState]:
    """Builds model and optimizer, and the state before the first step.

    Raises:
      UserError: if the configuration does not fit the data.
    """
    num_examples = len(dataset.train_labels)
    if config.batch_size > num_examples:
        raise UserError(
            f"`batch_size` {config.batch_size} is larger than the {num_examples} "
            f"training examples of {dataset.name}; take at most {num_examples}"
        )
    params_key, order_key = jax.random.split(jax.random.key(config.seed))
    model = build_model(
        config.model,
        dataset.input_shape,
        dataset.num_classes,
        config.model_settings,
        rngs=nnx.Rngs(params_key),
    )
    method = look_up("method", config.method, METHODS)
    layout, factor = None, 1.0
    if (
        method.uses_layout
        or config.chosen_init != "default"
        or config.scale_learning_rate
    ):
        arch = trace_model(config.model, model, dataset.input_shape)
        try:
            if config.chosen_init != "default":
                params = nnx.state(model, nnx.Param)
                key = jax.random.fold_in(params_key, 0)
                drawn = hp.initialize(key, params, arch, config.chosen_init)
                nnx.update(model, drawn)
            if method.uses_layout:
                layout = arch.layout(nnx.state(model, nnx.Param))
        except ValueError as error:
            raise UserError(f"model {config.model}: {error}") from error
        if config.scale_learning_rate:
            factor = learning_rate_factor(arch)
            base = config.learning_rate or method.settings["learning_rate"]
            print(f"learning rate: {base:g}, scaled to {base * factor:g}", flush=True)
    optimizer = build_optimizer(
        config.method,
        config.method_settings,
        total_steps=config.epochs * (num_examples // config.batch_size),
        layout=layout,
        learning_rate_factor=factor,
    )
    model.train()
    train_graph, params, model_state = nnx.split(model, nnx.Param, ...)
    model.eval()
    eval_graph = nnx.split(model, nnx.Param, ...)[0]
    try:
        opt_state = optimizer.init(params)
    except ValueError as error:
        raise UserError(
            f"method {config.method} cannot train model {config.model}: {error}"
        ) from error
    task = Task(
        train_graph, eval_graph, optimizer, dataset, config.batch_size, order_key
    )
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state)
    return task, state


def learning_rate_factor(arch: hp.Architecture) -> float:
    """What the rate of a base network is multiplied by, for an architecture.

    The kernel size is that of the largest kernels, 3 where there is no convolution.
    A warning that the factor is very small becomes a printed note.

    Raises:
      UserError: if no path leads through a layer.
    """
    sizes = [max(layer.kernel_size) for layer in arch.layers if layer.kernel_size]
    size = max(sizes, default=3)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            factor = hp.scale_learning_rate(1.0, arch, kernel_size=size)
    except ValueError as error:
        raise UserError(f"`scale_learning_rate`: {error}") from error
    for warning in caught:
        print(f"note: {warning.message}", flush=True)
    return factor
