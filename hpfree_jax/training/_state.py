"""What a training run carries from step to step, and how it begins."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PyTree

import hpfree_jax as hp
from hpfree_jax._errors import UserError
from hpfree_jax.data import DATASETS, AnyDataset, Examples
from hpfree_jax.methods import METHODS, Method, build_optimizer, method_settings
from hpfree_jax.models import MODELS, abstract_model, build_model
from hpfree_jax.training._config import TrainConfig
from hpfree_jax.training._losses import LOSSES, Loss
from hpfree_jax.training._model_config import trace_model

# What the seed's key is folded with; 2 draws what the dataset holds out.
VALIDATION_ORDER, AUGMENTATION, SAMPLE = 3, 4, 5


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
    method: Method
    optimizer: optax.GradientTransformationExtraArgs
    loss: Loss  # of each target
    dataset: AnyDataset  # without what is held out
    held_out: Examples | None  # of the training data, for validation
    batch_size: int
    seed: int  # of a stream's order; all other randomness comes from the keys
    order_key: Array  # from it and the epoch comes the order of the data
    validation_key: Array  # the same for the data held out
    augmentation_key: Array | None = None  # with the step; None: no augmentation
    accumulate: int = 1  # gradient-accumulation steps per batch
    notes: tuple[str, ...] = ()  # on its preparation, to be shown

    @property
    def extra_args(self) -> tuple[str, ...]:
        """What the optimizer is given beside the loss; see :class:`Method`."""
        has_validation = self.held_out is not None
        return tuple(
            name
            for name in self.method.extra_args
            if has_validation or name != "validation_fn"
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training data; what is left over waits an epoch."""
        return self.dataset.num_train // self.batch_size

    @property
    def is_text(self) -> bool:
        """Whether the model is a language model."""
        return self.dataset.is_text

    @property
    def examples_per_step(self) -> int:
        """Images in a batch, or tokens."""
        length = self.dataset.input_shape[0] if self.is_text else 1
        return self.batch_size * length


def prepare(
    config: TrainConfig, dataset: AnyDataset, total_steps: int | None = None
) -> tuple[Task, TrainState]:
    """Builds model and optimizer, and the state before the first step.

    Args:
      config: the configuration.
      dataset: its data.
      total_steps: updates in the whole training; None: as many as its epochs have.

    Raises:
      UserError: if the configuration does not fit the data.
    """
    method = METHODS[config.method]
    key = jax.random.key(config.seed)
    params_key, order_key = jax.random.split(key)
    dataset, held_out = dataset.hold_out(config.held_out, config.seed)
    _check_batch_size(config, dataset, held_out)
    model = _build_model(config, dataset, nnx.Rngs(params_key))
    model_args, factor, notes = _read_architecture(config, model, dataset, params_key)
    steps_per_epoch = dataset.num_train // config.batch_size
    optimizer = build_optimizer(
        config.method,
        config.method_settings,
        total_steps=total_steps or config.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        model=model_args,
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
        train_graph,
        eval_graph,
        method,
        optimizer,
        LOSSES[config.chosen_loss],
        dataset,
        held_out,
        config.batch_size,
        config.seed,
        order_key,
        jax.random.fold_in(key, VALIDATION_ORDER),
        jax.random.fold_in(key, AUGMENTATION) if config.augment else None,
        config.accumulate,
        notes,
    )
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state)
    return task, state


def _read_architecture(
    config: TrainConfig, model: nnx.Module, dataset: AnyDataset, key: Array
) -> tuple[dict[str, Any], float, tuple[str, ...]]:
    """Traces the model if needed, and initialises it as the configuration says.

    Returns what the method takes of the model, the factor of the learning rate, and
    lines to show.
    """
    model_args = METHODS[config.method].model_args
    if not (
        model_args or config.chosen_init != "default" or config.scale_learning_rate
    ):
        return {}, 1.0, ()
    arch = trace_model(config.model, model, dataset.input_shape, config.batch_size)
    found = {}
    try:
        if config.chosen_init != "default":
            params = nnx.state(model, nnx.Param)
            init_key = jax.random.fold_in(key, 0)
            scheme: Any = config.chosen_init  # checked with the configuration
            drawn = hp.initialize(init_key, params, arch, scheme)
            nnx.update(model, drawn)
        if model_args:
            params = nnx.state(model, nnx.Param)
            layout = arch.layout(params)
            found = {"params": params, "architecture": arch, "layout": layout}
    except ValueError as error:
        raise UserError(f"model {config.model}: {error}") from error
    if not config.scale_learning_rate:
        return found, 1.0, ()
    factor, notes = learning_rate_factor(arch)
    base = method_settings(config.method, config.method_settings)["learning_rate"]
    scaled = f"learning rate: {base:g}, scaled to {base * factor:g}"
    return found, factor, (*notes, scaled)


def check_fits(config: TrainConfig) -> None:
    """Raises UserError unless the model can be built for its data, yet to be read."""
    name, settings = config.model, config.model_settings
    entry = DATASETS.get(config.dataset)
    shape, classes = (entry.input_shape, entry.num_classes) if entry else (None, None)
    if MODELS[name].takes_tokens:  # a text has the model's context
        shape = (config.context or MODELS[name].defaults["context"],)
    with _saying_what_fits(config, config.dataset, shape):
        abstract_model(name, shape, classes, settings)


def _build_model(
    config: TrainConfig, dataset: AnyDataset, rngs: nnx.Rngs
) -> nnx.Module:
    shape, classes = dataset.input_shape, dataset.num_classes
    with _saying_what_fits(config, dataset.name, shape):
        return build_model(
            config.model, shape, classes, config.model_settings, rngs=rngs
        )


@contextlib.contextmanager
def _saying_what_fits(config: TrainConfig, dataset: str, shape) -> Iterator[None]:
    """Makes the error of a model that cannot be built say whether the data is why."""
    try:
        yield
    except UserError as error:
        if MODELS[config.model].takes_tokens:
            raise
        abstract_model(config.model, settings=config.model_settings)  # raises if not
        raise UserError(
            f"dataset {dataset}, with examples of shape {shape}, does not fit {error}"
        ) from error


def _check_batch_size(config, dataset: AnyDataset, held_out: Examples | None) -> None:
    size, num_examples = config.batch_size, dataset.num_train
    num_held_out = 0 if held_out is None else len(held_out.labels)
    if size > num_examples:
        rest = f" ({num_held_out} others are held out)" if held_out else ""
        raise UserError(
            f"`batch_size` {size} is larger than the {num_examples} training examples "
            f"of {dataset.name}{rest}; take at most {num_examples}"
        )
    validates = "validation_fn" in METHODS[config.method].extra_args
    if held_out and validates and size > num_held_out:
        enough = math.ceil(1e3 * size / (num_examples + num_held_out)) / 1e3
        raise UserError(
            f"`validation_fraction` {config.held_out:g} holds out {num_held_out} "
            f"examples of {dataset.name}, fewer than a batch of {size}, which method "
            f"{config.method} needs; take at least {enough:g}, a `batch_size` of at "
            f"most {num_held_out}, or 0 to use the training loss"
        )


def learning_rate_factor(arch: hp.Architecture) -> tuple[float, list[str]]:
    """Returns the factor of the learning rate for an architecture, and notes on it.

    It is relative to a network of 3 layers with kernels of size 3. The architecture's
    kernel size is that of its largest kernels, 3 if it has no convolution.

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
    return factor, [f"note: {warning.message}" for warning in caught]
