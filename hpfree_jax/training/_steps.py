"""The compiled training step, and the order of the data that it reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Int, PyTree

from hpfree_jax._learning_rate import get_learning_rate
from hpfree_jax.data import Examples
from hpfree_jax.training._accumulation import accumulated_grad, accumulated_loss
from hpfree_jax.training._losses import is_correct
from hpfree_jax.training._state import Task, TrainState

METRICS = ("loss", "accuracy", "learning_rate")  # of a step, before the method's own

Order = Int[Array, " examples"]


class ResidentData(NamedTuple):
    """What steps read of a dataset on the device; the step's number says where."""

    examples: Any  # the dataset's `train_arrays`
    order: Order  # in which the epoch visits them
    held_out: tuple[Examples, Order] | None = None  # for methods with `validation_fn`


class StepShardings(NamedTuple):
    """How a step's arrays are laid out on a mesh.

    Each is a pytree prefix, as :func:`jax.jit` takes them.
    """

    state: PyTree[Sharding]  # of the training state
    batch: Sharding  # of batches, along their first axis
    replicated: Sharding  # of resident data and of the metrics


def metric_names(task: Task) -> tuple[str, ...]:
    """Returns the metrics of a training step, in order."""
    return (*METRICS, *task.method.metrics)


def make_epoch_order(task: Task) -> Callable[[int], Order]:
    """Returns a function from the epoch to the order in which it visits the data."""

    @jax.jit
    def epoch_order(epoch):
        return task.dataset.epoch_order(jax.random.fold_in(task.order_key, epoch))

    return epoch_order


def make_validation_order(task: Task) -> Callable[[int], Order]:
    """Returns a function from the epoch to the held-out examples that its steps use.

    They are passed over again and again, in another order each time and whatever the
    epochs: with V batches in a pass, step s of the run takes batch s mod V of pass
    s div V. What is left over in a pass waits for another one.
    """
    if task.held_out is None:
        raise ValueError("nothing is held out")
    num_examples, size = len(task.held_out.labels), task.batch_size
    per_pass = num_examples // size
    num_passes = -(-task.steps_per_epoch // per_pass) + 1  # begun within an epoch

    def one_pass(number):
        key = jax.random.fold_in(task.validation_key, number)
        return jax.random.permutation(key, num_examples)[: per_pass * size]

    @jax.jit
    def validation_order(epoch):
        first, position = jnp.divmod(epoch * task.steps_per_epoch, per_pass)
        passes = jax.vmap(one_pass)(first + jnp.arange(num_passes))
        return jax.lax.dynamic_slice_in_dim(
            passes.reshape(-1), position * size, task.steps_per_epoch * size
        )

    return validation_order


def make_orders(task: Task) -> Callable[[int], tuple]:
    """Returns a function from the epoch to the fields of ResidentData after the first.

    That is the order of the training data, and the held-out examples with theirs, or
    None for a method that does not use them.
    """
    order = make_epoch_order(task)
    if "validation_fn" not in task.extra_args:
        return lambda epoch: (order(epoch), None)
    assert task.held_out is not None
    examples = Examples(*jax.device_put(tuple(task.held_out)))
    validation_order = make_validation_order(task)
    return lambda epoch: (order(epoch), (examples, validation_order(epoch)))


def make_step(
    task: Task, *, num_seeds: int = 1, shardings: StepShardings | None = None
) -> Callable:
    """Returns the jitted ``step(state, data, num_steps)``.

    It makes ``num_steps`` updates and returns the new state and the metrics of each,
    ``(num_steps, len(metric_names(task)))``. ``data`` is :class:`ResidentData` of the
    epoch that the steps are in, or a pair of inputs and targets from the host, which
    is one step. The state is donated. One step is compiled without a loop: XLA runs
    convolutions inside a loop about twenty times slower on the CPU.

    Args:
      task: the static parts of the run.
      num_seeds: how many runs to make at once; if more than one, states, data and
        metrics have an axis for the seeds in front, except for training examples that
        all seeds share.
      shardings: of the arguments and results, for one seed; None: all on the default
        device.

    Raises:
      ValueError: if several seeds are to be sharded.
    """
    if num_seeds > 1 and shardings is not None:
        raise ValueError(
            f"`shardings` apply to one seed, got `num_seeds` {num_seeds}; train one "
            "seed after another on a mesh"
        )
    dataset, update = task.dataset, _make_update(task)

    def next_batch(step, examples, order):
        position = step % task.steps_per_epoch * task.batch_size
        index = jax.lax.dynamic_slice_in_dim(order, position, task.batch_size)
        if shardings is not None:  # then each device gathers its part of the batch
            index = jax.lax.with_sharding_constraint(index, shardings.batch)
        if isinstance(examples, Examples):
            return examples.images[index], examples.labels[index]
        batch = dataset.take(examples, index)
        return batch.inputs, batch.targets

    def one_step(state: TrainState, data):
        if not dataset.is_resident:
            return update(state, data)
        batch = next_batch(state.step, data.examples, data.order)
        if "validation_fn" in task.extra_args:
            return update(state, batch, next_batch(state.step, *data.held_out))
        return update(state, batch)

    def steps(state, data, num_steps):
        if num_steps == 1:
            state, metrics = one_step(state, data)
            return state, metrics[None]
        return jax.lax.scan(lambda s, _: one_step(s, data), state, length=num_steps)

    def all_seeds(states, data, num_steps):
        several = lambda state, data: steps(state, data, num_steps)
        axes = (0, _seed_axes(task))
        return jax.vmap(several, in_axes=axes)(states, data)

    placed = {}
    if shardings is not None:
        data = shardings.replicated if dataset.is_resident else shardings.batch
        placed["in_shardings"] = (shardings.state, data)
        placed["out_shardings"] = (shardings.state, shardings.replicated)
    function = steps if num_seeds == 1 else all_seeds
    return jax.jit(function, static_argnums=2, donate_argnums=0, **placed)


def _seed_axes(task: Task) -> Any:
    """Which arrays of a step's data have an axis for the seeds."""
    if not task.dataset.is_resident:
        return 0
    # Seeds that hold out different examples train on different ones.
    return ResidentData(None if task.held_out is None else 0, 0, 0)  # type: ignore[arg-type]


def _make_update(task: Task) -> Callable:
    """Returns ``update(state, batch, held_out)``, of batches as the dataset has them.

    A batch is a pair of inputs, not yet augmented and normalised, and targets.
    """

    def train_loss(params, model_state, batch):
        # Copied: a model cannot write to variables made outside the gradient.
        model = nnx.merge(task.train_graph, params, model_state, copy=True)
        outputs = model(batch[0])
        model_state = nnx.state(model, nnx.Not(nnx.Param))
        accuracy = jnp.mean(is_correct(outputs, batch[1]))
        return jnp.mean(task.loss(outputs, batch[1])), (accuracy, model_state)

    def validation_loss(params, model_state, batch):
        model = nnx.merge(task.eval_graph, params, model_state, copy=True)
        accuracy = jnp.zeros(())  # nobody asks for it
        return jnp.mean(task.loss(model(batch[0]), batch[1])), (accuracy, model_state)

    value_and_grad = accumulated_grad(train_loss, task.accumulate)
    train_value = accumulated_loss(train_loss, task.accumulate)
    validation_value = accumulated_loss(validation_loss, task.accumulate)

    def update(state: TrainState, batch, held_out=None):
        key = task.augmentation_key
        key = None if key is None else jax.random.fold_in(key, state.step)
        batch = (task.dataset.prepare(batch[0], key), batch[1])
        extra_args: dict[str, Callable] = {}
        if "value_fn" in task.extra_args:
            # Of the same function, so that XLA merges what the two have in common.
            extra_args["value_fn"] = lambda params: train_value(
                params, state.model_state, batch
            )
        if "validation_fn" in task.extra_args:
            assert held_out is not None
            others = (task.dataset.prepare(held_out[0]), held_out[1])
            extra_args["validation_fn"] = lambda params: validation_value(
                params, state.model_state, others
            )
        (value, (accuracy, model_state)), grads = value_and_grad(
            state.params, state.model_state, batch
        )
        updates, opt_state = task.optimizer.update(
            grads, state.opt_state, state.params, value=value, **extra_args
        )
        params = optax.apply_updates(state.params, updates)
        metrics = [value, accuracy, get_learning_rate(opt_state)]
        metrics += [read(opt_state) for read in task.method.metrics.values()]
        new_state = TrainState(state.step + 1, params, model_state, opt_state)
        return new_state, jnp.stack([m.astype(jnp.float32) for m in metrics])

    return update


@jax.jit
def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Returns whether no floating-point leaf holds an infinity or a NaN."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
