"""The training loop: steps, metrics, evaluations, checkpoints, interruptions."""

import math
import time
from typing import NamedTuple

import jax
import numpy as np

from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._config import TrainConfig
from hpfree_jax.training._held_out import Examples
from hpfree_jax.training._interrupt import Interrupt
from hpfree_jax.training._losses import LOSSES
from hpfree_jax.training._metrics import MetricsFile
from hpfree_jax.training._progress import Progress
from hpfree_jax.training._state import Task, TrainState
from hpfree_jax.training._steps import (
    all_finite,
    make_epoch_order,
    make_evaluate,
    make_train_steps,
    make_validation_order,
    metric_names,
)


class NonFiniteLoss(Exception):
    """The loss or the parameters became infinite or NaN.

    Attributes:
      step: the first step, counted from 1, that was affected.
    """

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} at step {step}")
        self.step = step


class LoopResult(NamedTuple):
    """How a loop ended."""

    state: TrainState
    step: int
    interrupted: bool
    images_per_second: float | None  # None if no step was made


def run_loop(
    config: TrainConfig,
    task: Task,
    state: TrainState,
    pending: np.ndarray,
    metrics_file: MetricsFile,
    checkpoints: Checkpoints,
) -> LoopResult:
    """Trains from a state to the end of the last epoch.

    Metrics stay on the device until the end of a window of ``log_every`` steps, or of
    the epoch; only then does the host wait for the device.

    Args:
      config: the configuration, already checked.
      task: the static parts of the run.
      state: where to start; it is donated, so do not use it afterwards.
      pending: metrics, ``(steps, metrics)``, of the steps since the last window's end.
      metrics_file: where the metrics go.
      checkpoints: where the states go.

    Raises:
      NonFiniteLoss: at the first such step; the windows before it are written.
    """
    steps_per_epoch = task.steps_per_epoch
    total_steps = config.epochs * steps_per_epoch
    on_cpu = jax.default_backend() == "cpu"
    steps_per_call = config.steps_per_call or (1 if on_cpu else config.log_every)
    loss = LOSSES[config.loss]
    train_steps = make_train_steps(task, loss)
    data = task.dataset
    splits = {"test": Examples(data.test_images, data.test_labels)}
    if task.held_out is not None:
        splits["validation"] = task.held_out
    evaluate = {
        name: make_evaluate(task, loss, split) for name, split in splits.items()
    }
    names = metric_names(task)
    examples = Examples(*jax.device_put((data.train_images, data.train_labels)))
    orders = make_orders(task)

    step = int(state.step)
    window: list[np.ndarray | jax.Array] = [pending] if len(pending) else []
    order, held_out = orders(step // steps_per_epoch)
    # Compiled on a copy before the clock starts.
    num_steps = min(steps_per_call, config.log_every, steps_per_epoch)
    copy = jax.tree.map(lambda x: x.copy(), state)
    warm_up = train_steps(copy, examples, order, num_steps, held_out)
    jax.block_until_ready(warm_up[1])
    clock = _Clock(config.batch_size)
    with Interrupt() as interrupt, Progress(total_steps, step) as progress:
        while step < total_steps:
            epoch, position = divmod(step, steps_per_epoch)
            to_window_end = config.log_every - position % config.log_every
            num_steps = min(steps_per_call, to_window_end, steps_per_epoch - position)
            if position == 0:
                order, held_out = orders(epoch)
            state, metrics = train_steps(state, examples, order, num_steps, held_out)
            window.append(metrics)
            step, position = step + num_steps, position + num_steps
            clock.count(num_steps)
            progress.advance(num_steps)

            at_epoch_end = position == steps_per_epoch
            if at_epoch_end or position % config.log_every == 0:
                values, window = _fetch(window, step), []
                rate = clock.stop()
                means = values.mean(0, np.float64).tolist()
                # A method without a learning rate leaves it out.
                found = dict(zip(names, means, strict=True))
                metrics_file.append(
                    step=step,
                    epoch=step / steps_per_epoch,
                    **{k: mean for k, mean in found.items() if math.isfinite(mean)},
                    images_per_second=rate,
                )
                clock.start()
            if at_epoch_end:
                epoch += 1
                is_last = epoch == config.epochs
                if is_last or epoch % config.evaluate_every == 0:
                    found = _evaluate(evaluate, state, step)
                    metrics_file.append(step=step, **found)
                    text = f"epoch {epoch}/{config.epochs}"
                    text += f"  test loss {found['test_loss']:.4f}"
                    for name in evaluate:
                        text += f"  {name} accuracy {found[f'{name}_accuracy']:.2%}"
                    progress.report(text)
                if is_last or epoch % config.checkpoint_every == 0:
                    _save(checkpoints, step, state, window)
                clock.start()
            if interrupt.requested:
                _save(checkpoints, step, state, window)
                break
    return LoopResult(state, step, step < total_steps, clock.images_per_second)


def make_orders(task: Task):
    """Returns a function from the epoch to what its steps read.

    That is the order of the training data, and the held-out examples with theirs, or
    None for a method that does not use them.
    """
    order = make_epoch_order(task)
    if task.held_out is None or "validation_fn" not in task.extra_args:
        return lambda epoch: (order(epoch), None)
    examples = Examples(*jax.device_put(tuple(task.held_out)))
    validation_order = make_validation_order(task)
    return lambda epoch: (order(epoch), (examples, validation_order(epoch)))


def _evaluate(evaluate, state: TrainState, step: int) -> dict[str, float]:
    """Returns loss and accuracy on each split."""
    found = {}
    for name, evaluate_split in evaluate.items():
        value, accuracy = evaluate_split(state)
        if not np.isfinite(value):
            raise NonFiniteLoss(step, f"non-finite {name} loss ({value})")
        found |= {f"{name}_loss": value, f"{name}_accuracy": accuracy}
    return found


class _Clock:
    """Measures training without evaluations, checkpoints and compilation."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._steps = self._total_steps = 0
        self._total_seconds = 0.0
        self.start()

    def start(self) -> None:
        self._steps, self._begin = 0, time.perf_counter()

    def count(self, steps: int) -> None:
        self._steps += steps

    def stop(self) -> float:
        seconds = time.perf_counter() - self._begin
        self._total_steps += self._steps
        self._total_seconds += seconds
        return self._steps * self._batch_size / seconds

    @property
    def images_per_second(self) -> float | None:
        if not self._total_steps:
            return None
        return self._total_steps * self._batch_size / self._total_seconds


def _fetch(window, last_step: int) -> np.ndarray:
    """Returns the metrics of the window's steps; raises at the first bad loss."""
    if not window:
        return np.zeros((0, 0), np.float32)
    values = np.concatenate(jax.device_get(window))
    bad = ~np.isfinite(values[:, 0])
    if bad.any():
        step = last_step - len(values) + 1 + int(np.argmax(bad))
        raise NonFiniteLoss(step, f"non-finite loss ({values[bad][0, 0]})")
    return values


def _save(checkpoints: Checkpoints, step: int, state: TrainState, window) -> None:
    pending = _fetch(window, step)
    # Not the optimizer's state, which may start at infinity (a smallest loss, say).
    if not all_finite((state.params, state.model_state)):
        raise NonFiniteLoss(step, "non-finite parameters after the update")
    checkpoints.save(step, state, pending)
