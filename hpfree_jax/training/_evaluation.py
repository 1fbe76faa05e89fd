"""Loss and accuracy of a state on test and held-out data."""

import math
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpfree_jax.data import Batch
from hpfree_jax.training._losses import is_correct
from hpfree_jax.training._state import Task, TrainState

# From a state to its loss and accuracy on one split, means over all targets.
Evaluate = Callable[[TrainState], tuple[float, float]]


class NonFiniteLoss(Exception):
    """The loss or the parameters became infinite or NaN.

    Attributes:
      step: the first step, counted from 1, that was affected.
    """

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} at step {step}")
        self.step = step


def evaluation_batch_size(task: Task) -> int:
    """Returns how many examples to evaluate at once, fewer where they are large."""
    size = math.prod(task.dataset.input_shape)
    return min(1000, max(1, (2**14 if task.is_text else 2**22) // size))


def make_evaluations(
    tasks: Sequence[Task], sums: Callable, limit: int | None = None
) -> list[dict[str, Evaluate]]:
    """Returns, for each seed, the evaluations on each split that it has.

    Args:
      tasks: of the seeds, which have the same test data and hold out different data.
      sums: from :func:`make_sums`.
      limit: test examples to evaluate on; None: all, or the dataset's own limit.
    """
    size, data = evaluation_batch_size(tasks[0]), tasks[0].dataset
    read = lambda: data.evaluation_batches(size, limit)
    test = make_evaluate(tasks[0], sums, read, data.is_evaluation_resident)
    found: list[dict[str, Evaluate]] = []
    for task in tasks:
        found.append({"test": test})
        if task.held_out is not None:
            batches = task.held_out.batches(size)
            evaluate = make_evaluate(task, sums, lambda batches=batches: batches)
            found[-1]["validation"] = evaluate
    return found


def make_evaluate(
    task: Task,
    sums: Callable,
    read: Callable[[], Iterable[Batch]],
    is_resident: bool = True,
) -> Evaluate:
    """Returns a function from a state to its loss and accuracy.

    Args:
      task: the static parts of the run.
      sums: from :func:`make_sums`.
      read: returns the batches, all of one shape, padded with examples of weight 0.
      is_resident: whether to keep the batches on the device, and read them once.
    """
    stored = [jax.device_put(batch) for batch in read()] if is_resident else None

    def evaluate(state: TrainState) -> tuple[float, float]:
        params = task.method.evaluation_params(state.opt_state, state.params)
        parts = []
        for batch in stored or read():
            parts.append(sums(params, state.model_state, *batch))
            jax.block_until_ready(parts[-2:-1])  # batches read must not pile up
        total = np.sum(np.asarray(jax.device_get(parts), np.float64), axis=0)
        value, accuracy = (total[:2] / total[2]).tolist()
        return value, accuracy

    return evaluate


def make_sums(task: Task) -> Callable:
    """Returns the jitted ``sums(params, model_state, inputs, targets, weights)``.

    They are the weighted sums of loss and accuracy over a batch, and of the weights,
    float32, ``(3,)``. A text's loss and accuracy are means over the tokens of each
    example. On a mesh all three are sums over the global batch.
    """

    def sums(params, model_state, inputs, targets, weights):
        model = nnx.merge(task.eval_graph, params, model_state, copy=True)
        outputs = model(task.dataset.prepare(inputs))
        found = jnp.stack([task.loss(outputs, targets), is_correct(outputs, targets)])
        found = jnp.mean(found, axis=tuple(range(2, found.ndim)))  # over a text
        totals = found.astype(jnp.float32) @ weights
        return jnp.append(totals, jnp.sum(weights))

    return jax.jit(sums)
