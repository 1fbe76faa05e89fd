"""The compiled functions of a training run: steps and evaluation."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from hpfree_jax._learning_rate import get_learning_rate
from hpfree_jax.data import StreamingDataset
from hpfree_jax.data._held_out import Examples
from hpfree_jax.training._accumulation import accumulated_grad, accumulated_loss
from hpfree_jax.training._losses import is_correct
from hpfree_jax.training._state import Task, TrainState

METRICS = ("loss", "accuracy", "learning_rate")  # of a step, before the method's own

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def metric_names(task: Task) -> tuple[str, ...]:
    """The metrics of a training step, in order."""
    return (*METRICS, *task.method.metrics)


def make_epoch_order(task: Task) -> Callable[[int], Int[Array, " examples"]]:
    """Returns a function from the epoch to the order in which it visits the data."""
    dataset = task.dataset
    assert not isinstance(dataset, StreamingDataset)  # which has its own order

    @jax.jit
    def epoch_order(epoch):
        return dataset.epoch_order(jax.random.fold_in(task.order_key, epoch))

    return epoch_order


def make_validation_order(task: Task) -> Callable[[int], Int[Array, " examples"]]:
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


def make_train_steps(task: Task, loss: Loss) -> Callable:
    """Returns the jitted ``train_steps(state, examples, order, num_steps, held_out)``.

    It makes ``num_steps`` updates within one epoch and returns the new state and the
    metrics of each step, ``(num_steps, len(metric_names(task)))``. ``examples`` are the
    dataset's ``train_arrays``. ``held_out``, for methods that take a
    ``validation_fn``, is another pair of examples and order. The
    state is donated. One step is compiled without a loop: XLA runs convolutions inside
    a loop about twenty times slower on the CPU.
    """
    update, dataset = _make_update(task, loss), task.dataset
    assert not isinstance(dataset, StreamingDataset)  # see make_stream_step

    def next_batch(step, examples, order):
        position = step % task.steps_per_epoch * task.batch_size
        index = jax.lax.dynamic_slice_in_dim(order, position, task.batch_size)
        if isinstance(examples, Examples):
            return examples.images[index], examples.labels[index]
        batch = dataset.take(examples, index)
        return batch.inputs, batch.targets

    def train_step(state: TrainState, examples, order, held_out):
        batch = next_batch(state.step, examples, order)
        if "validation_fn" in task.extra_args:
            return update(state, batch, next_batch(state.step, *held_out))
        return update(state, batch)

    def train_steps(state, examples, order, num_steps, held_out=None):
        if num_steps == 1:
            state, metrics = train_step(state, examples, order, held_out)
            return state, metrics[None]
        body = lambda state, _: train_step(state, examples, order, held_out)
        return jax.lax.scan(body, state, length=num_steps)

    return jax.jit(train_steps, static_argnums=3, donate_argnums=0)


def make_stream_step(task: Task, loss: Loss) -> Callable:
    """Returns the jitted ``step(state, inputs, targets)`` on a batch from the host.

    It returns what :func:`make_train_steps` does for one step; the state is donated.
    """
    update = _make_update(task, loss)

    def step(state: TrainState, inputs, targets):
        state, metrics = update(state, (inputs, targets))
        return state, metrics[None]

    return jax.jit(step, donate_argnums=0)


def _make_update(task: Task, loss: Loss) -> Callable:
    """Returns ``update(state, batch, held_out)``, of batches as the dataset has them.

    A batch is a pair of inputs, not yet augmented and normalised, and targets.
    """

    def train_loss(params, model_state, batch):
        # Copied: a model cannot write to variables made outside the gradient.
        model = nnx.merge(task.train_graph, params, model_state, copy=True)
        outputs = model(batch[0])
        model_state = nnx.state(model, nnx.Not(nnx.Param))
        accuracy = jnp.mean(is_correct(outputs, batch[1]))
        return jnp.mean(loss(outputs, batch[1])), (accuracy, model_state)

    def validation_loss(params, model_state, batch):
        model = nnx.merge(task.eval_graph, params, model_state, copy=True)
        accuracy = jnp.zeros(())  # nobody asks for it
        return jnp.mean(loss(model(batch[0]), batch[1])), (accuracy, model_state)

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


def evaluation_batch_size(task: Task) -> int:
    """How many examples an evaluation computes at once, which depends on their size."""
    size = math.prod(task.dataset.input_shape)
    return min(1000, max(1, (2**14 if task.is_text else 2**22) // size))


def make_evaluate(
    task: Task, loss: Loss, examples: Examples, batch_size: int = 1000
) -> Callable[[TrainState], tuple[float, float]]:
    """Returns a function from a state to the loss and accuracy on the examples.

    Of a text, both are means over its tokens.
    """
    images, labels = examples
    batch_size = min(batch_size, len(labels))
    weights = np.ones(len(labels), np.float32)
    margin = -len(labels) % batch_size  # the last batch is filled with weight 0
    fill = lambda array: np.pad(array, [(0, margin)] + [(0, 0)] * (array.ndim - 1))
    stored = jax.device_put((fill(images), fill(labels), fill(weights)))
    sums_of = _make_sums(task, loss)

    @jax.jit
    def sums(params, model_state, stored, start):
        batch = (
            jax.lax.dynamic_slice_in_dim(array, start, batch_size) for array in stored
        )
        return sums_of(params, model_state, *batch)

    def evaluate(state: TrainState) -> tuple[float, float]:
        starts = range(0, len(labels) + margin, batch_size)
        params = task.method.evaluation_params(state.opt_state, state.params)
        model = (params, state.model_state)
        parts = [sums(*model, stored, start) for start in starts]
        per_batch = np.asarray(jax.device_get(parts), np.float64)
        loss_sum, num_correct = per_batch.sum(axis=0).tolist()
        return loss_sum / len(labels), num_correct / len(labels)

    return evaluate


def make_stream_evaluate(
    task: Task, loss: Loss, batch_size: int, limit: int | None = None
) -> Callable[[TrainState], tuple[float, float]]:
    """The same on the test data of a stream, whose batches come from the host.

    Args:
      task: of a streaming dataset.
      loss: the loss.
      batch_size: examples in a batch.
      limit: how many examples, in whole batches; None: all.
    """
    dataset = task.dataset
    if not isinstance(dataset, StreamingDataset):
        raise TypeError(f"dataset {dataset.name} is no stream of images")
    sums = jax.jit(_make_sums(task, loss))
    num_batches = None if limit is None else math.ceil(limit / batch_size)

    def evaluate(state: TrainState) -> tuple[float, float]:
        params = task.method.evaluation_params(state.opt_state, state.params)
        found, count = np.zeros(2), 0.0
        for batch in itertools.islice(dataset.test_batches(batch_size), num_batches):
            found += np.asarray(sums(params, state.model_state, *batch))
            count += np.sum(batch.weights)
        value, accuracy = (found / count).tolist()
        return value, accuracy

    return evaluate


def _make_sums(task: Task, loss: Loss) -> Callable:
    """Returns a function to the weighted sums of loss and accuracy over a batch."""

    def sums(params, model_state, inputs, targets, weights):
        model = nnx.merge(task.eval_graph, params, model_state, copy=True)
        outputs = model(task.dataset.prepare(inputs))
        found = jnp.stack([loss(outputs, targets), is_correct(outputs, targets)])
        found = jnp.mean(found, axis=tuple(range(2, found.ndim)))  # over a text
        return found.astype(jnp.float32) @ weights

    return sums


@jax.jit
def all_finite(tree) -> Float[Array, ""]:
    """Whether no floating-point leaf holds an infinity or a NaN."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
