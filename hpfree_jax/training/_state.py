"""What a training run carries from step to step, and how it begins."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PyTree

import hpfree_jax as hp
from hpfree_jax._user_input import UserError
from hpfree_jax.data import Dataset
from hpfree_jax.models import build_model
from hpfree_jax.training._config import TrainConfig
from hpfree_jax.training._optimizers import build_optimizer


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
    init = {}
    if config.chosen_init == "agd":
        init["kernel_init"] = hp.initializers.scaled_orthogonal()
    model = build_model(
        config.model,
        dataset.input_shape,
        dataset.num_classes,
        config.model_settings,
        rngs=nnx.Rngs(params_key),
        **init,
    )
    optimizer = build_optimizer(
        config.method,
        config.method_settings,
        total_steps=config.epochs * (num_examples // config.batch_size),
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
