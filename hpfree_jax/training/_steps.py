"""The compiled functions of a training run: steps and evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from hpfree_jax._learning_rate import get_learning_rate
from hpfree_jax.training._losses import is_correct
from hpfree_jax.training._state import Task, TrainState

METRICS = ("loss", "accuracy", "learning_rate")  # of a training step, in this order

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Examples(NamedTuple):
    """Images and labels on the device, where they stay for the whole run."""

    images: UInt8[Array, " examples *shape"]
    labels: Int[Array, " examples"]


def make_epoch_order(task: Task) -> Callable[[int], Int[Array, " examples"]]:
    """Returns a function from the epoch to the order in which it visits the data."""
    num_examples = len(task.dataset.train_labels)

    @jax.jit
    def epoch_order(epoch):
        key = jax.random.fold_in(task.order_key, epoch)
        return jax.random.permutation(key, num_examples)

    return epoch_order


def make_train_steps(task: Task, loss: Loss) -> Callable:
    """Returns the jitted ``train_steps(state, examples, order, num_steps)``.

    It makes ``num_steps`` updates within one epoch and returns the new state and the
    :data:`METRICS` of each step, ``(num_steps, 3)``. The state is donated. One step
    is compiled without a loop: XLA runs convolutions inside a loop about twenty times
    slower on the CPU.
    """

    def train_step(state: TrainState, examples: Examples, order):
        position = state.step % task.steps_per_epoch * task.batch_size
        index = jax.lax.dynamic_slice_in_dim(order, position, task.batch_size)
        images = task.dataset.normalise(examples.images[index])
        labels = examples.labels[index]

        def loss_fn(params):
            # Copied: a model cannot write to variables made outside the gradient.
            model = nnx.merge(task.train_graph, params, state.model_state, copy=True)
            outputs = model(images)
            model_state = nnx.state(model, nnx.Not(nnx.Param))
            accuracy = jnp.mean(is_correct(outputs, labels))
            return jnp.mean(loss(outputs, labels)), (accuracy, model_state)

        (value, (accuracy, model_state)), grads = jax.value_and_grad(
            loss_fn, has_aux=True
        )(state.params)
        updates, opt_state = task.optimizer.update(
            grads, state.opt_state, state.params, value=value
        )
        params = optax.apply_updates(state.params, updates)
        metrics = [value, accuracy, get_learning_rate(opt_state)]
        new_state = TrainState(state.step + 1, params, model_state, opt_state)
        return new_state, jnp.stack([m.astype(jnp.float32) for m in metrics])

    def train_steps(state, examples, order, num_steps):
        if num_steps == 1:
            state, metrics = train_step(state, examples, order)
            return state, metrics[None]
        body = lambda state, _: train_step(state, examples, order)
        return jax.lax.scan(body, state, length=num_steps)

    return jax.jit(train_steps, static_argnums=3, donate_argnums=0)


def make_evaluate(
    task: Task, loss: Loss, batch_size: int = 1000
) -> Callable[[TrainState], tuple[float, float]]:
    """Returns a function from a state to the loss and accuracy on the test data."""
    images, labels = task.dataset.test_images, task.dataset.test_labels
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
        model = (state.params, state.model_state)
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
