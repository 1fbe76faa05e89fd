"""The compiled functions of a training run: steps and evaluation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from hpfree_jax._learning_rate import get_learning_rate
from hpfree_jax.training._held_out import Examples
from hpfree_jax.training._losses import is_correct
from hpfree_jax.training._state import Task, TrainState

METRICS = ("loss", "accuracy", "learning_rate")  # of a step, before the method's own

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def metric_names(task: Task) -> tuple[str, ...]:
    """The metrics of a training step, in order."""
    return (*METRICS, *task.method.metrics)


def make_epoch_order(task: Task) -> Callable[[int], Int[Array, " examples"]]:
    """Returns a function from the epoch to the order in which it visits the data."""
    num_examples = len(task.dataset.train_labels)

    @jax.jit
    def epoch_order(epoch):
        key = jax.random.fold_in(task.order_key, epoch)
        return jax.random.permutation(key, num_examples)

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
    metrics of each step, ``(num_steps, len(metric_names(task)))``. ``held_out``, for
    methods that take a ``validation_fn``, is another pair of examples and order. The
    state is donated. One step is compiled without a loop: XLA runs convolutions inside
    a loop about twenty times slower on the CPU.
    """

    def next_batch(step, examples: Examples, order):
        position = step % task.steps_per_epoch * task.batch_size
        index = jax.lax.dynamic_slice_in_dim(order, position, task.batch_size)
        return task.dataset.normalise(examples.images[index]), examples.labels[index]

    def train_step(state: TrainState, examples: Examples, order, held_out):
        images, labels = next_batch(state.step, examples, order)

        def loss_fn(params):
            # Copied: a model cannot write to variables made outside the gradient.
            model = nnx.merge(task.train_graph, params, state.model_state, copy=True)
            outputs = model(images)
            model_state = nnx.state(model, nnx.Not(nnx.Param))
            accuracy = jnp.mean(is_correct(outputs, labels))
            return jnp.mean(loss(outputs, labels)), (accuracy, model_state)

        extra_args: dict[str, Callable] = {}
        if "value_fn" in task.extra_args:
            # Of the same function, so that XLA merges what the two have in common.
            extra_args["value_fn"] = lambda params: loss_fn(params)[0]
        if "validation_fn" in task.extra_args:
            batch = next_batch(state.step, *held_out)

            def validation_fn(params):
                model = nnx.merge(task.eval_graph, params, state.model_state, copy=True)
                return jnp.mean(loss(model(batch[0]), batch[1]))

            extra_args["validation_fn"] = validation_fn

        (value, (accuracy, model_state)), grads = jax.value_and_grad(
            loss_fn, has_aux=True
        )(state.params)
        updates, opt_state = task.optimizer.update(
            grads, state.opt_state, state.params, value=value, **extra_args
        )
        params = optax.apply_updates(state.params, updates)
        metrics = [value, accuracy, get_learning_rate(opt_state)]
        metrics += [read(opt_state) for read in task.method.metrics.values()]
        new_state = TrainState(state.step + 1, params, model_state, opt_state)
        return new_state, jnp.stack([m.astype(jnp.float32) for m in metrics])

    def train_steps(state, examples, order, num_steps, held_out=None):
        if num_steps == 1:
            state, metrics = train_step(state, examples, order, held_out)
            return state, metrics[None]
        body = lambda state, _: train_step(state, examples, order, held_out)
        return jax.lax.scan(body, state, length=num_steps)

    return jax.jit(train_steps, static_argnums=3, donate_argnums=0)


def make_evaluate(
    task: Task, loss: Loss, examples: Examples, batch_size: int = 1000
) -> Callable[[TrainState], tuple[float, float]]:
    """Returns a function from a state to the loss and accuracy on the examples."""
    images, labels = examples
    batch_size = min(batch_size, len(labels))
    weights = np.ones(len(labels), np.float32)
    margin = -len(labels) % batch_size  # the last batch is filled with weight 0
    fill = lambda array: np.pad(array, [(0, margin)] + [(0, 0)] * (array.ndim - 1))
    stored = jax.device_put((fill(images), fill(labels), fill(weights)))

    @jax.jit
    def sums(params, model_state, stored, start):
        images, labels, weights = (
            jax.lax.dynamic_slice_in_dim(array, start, batch_size) for array in stored
        )
        model = nnx.merge(task.eval_graph, params, model_state, copy=True)
        outputs = model(task.dataset.normalise(images))
        per_example = jnp.stack([loss(outputs, labels), is_correct(outputs, labels)])
        return per_example.astype(jnp.float32) @ weights

    def evaluate(state: TrainState) -> tuple[float, float]:
        starts = range(0, len(labels) + margin, batch_size)
        params = task.method.evaluation_params(state.opt_state, state.params)
        model = (params, state.model_state)
        parts = [sums(*model, stored, start) for start in starts]
        per_batch = np.asarray(jax.device_get(parts), np.float64)
        loss_sum, num_correct = per_batch.sum(axis=0).tolist()
        return loss_sum / len(labels), num_correct / len(labels)

    return evaluate


@jax.jit
def all_finite(tree) -> Float[Array, ""]:
    """Whether no floating-point leaf holds an infinity or a NaN."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
