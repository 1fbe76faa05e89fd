"""The training loop: steps, metrics, evaluations, checkpoints, interruptions."""

import contextlib
import math
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from hpfree_jax.data import StreamingDataset
from hpfree_jax.data._held_out import Examples, evaluation_examples, is_resident
from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._config import TrainConfig
from hpfree_jax.training._feeds import ResidentFeed, StreamFeed
from hpfree_jax.training._interrupt import Interrupt
from hpfree_jax.training._losses import LOSSES
from hpfree_jax.training._metrics import MetricsFile
from hpfree_jax.training._progress import Progress
from hpfree_jax.training._state import Task, TrainState
from hpfree_jax.training._steps import (
    Loss,
    all_finite,
    evaluation_batch_size,
    make_epoch_order,
    make_evaluate,
    make_stream_evaluate,
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
    per_second: float | None  # images, or tokens; None if no step was made


def run_loop(
    config: TrainConfig,
    task: Task,
    state: TrainState,
    pending: np.ndarray,
    metrics_file: MetricsFile,
    checkpoints: Checkpoints,
    data_state: dict[str, Any] | None = None,
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
      data_state: of a stream, where it continues; None: at its first batch.

    Raises:
      NonFiniteLoss: at the first such step; the windows before it are written.
    """
    steps_per_epoch = task.steps_per_epoch
    total_steps = config.epochs * steps_per_epoch
    loss = LOSSES[config.chosen_loss]
    evaluate = _make_evaluations(config, task, loss)
    names, speed = metric_names(task), speed_name(task)
    step = int(state.step)
    window: list[np.ndarray | jax.Array] = [pending] if len(pending) else []
    if is_resident(task.dataset):
        feed = ResidentFeed(task, loss, make_orders(task))
        on_cpu = jax.default_backend() == "cpu"
        steps_per_call = config.steps_per_call or (1 if on_cpu else config.log_every)
    else:
        feed = StreamFeed(task, loss, config.seed, data_state)
        steps_per_call = 1
    with (
        contextlib.closing(feed),
        Interrupt() as interrupt,
        Progress(total_steps, step) as progress,
    ):
        if step < total_steps:  # on a copy, before the clock starts
            num_steps = min(steps_per_call, config.log_every, steps_per_epoch)
            with progress.waiting("compiling a step and trying it"):
                feed.compile(jax.tree.map(lambda x: x.copy(), state), step, num_steps)
        clock = _Clock(config.batch_size * _units(task))
        stalled = feed.stall_seconds
        while step < total_steps:
            epoch, position = divmod(step, steps_per_epoch)
            to_window_end = config.log_every - position % config.log_every
            num_steps = min(steps_per_call, to_window_end, steps_per_epoch - position)
            state, metrics = feed.train(state, step, num_steps)
            window.append(metrics)
            # One step ahead of the device is enough to keep it busy. With more, Ctrl-C
            # would have to wait for all of them.
            jax.block_until_ready(window[-2:-1])
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
                    **{speed: rate},
                    **_stall(feed, stalled),
                )
                stalled = feed.stall_seconds
                clock.start()
            if at_epoch_end:
                epoch += 1
                is_last = epoch == config.epochs
                if is_last or epoch % config.evaluate_every == 0:
                    found = _evaluate(evaluate, state, step, task.is_text)
                    metrics_file.append(step=step, **found)
                    text = f"epoch {epoch}/{config.epochs}"
                    text += f"  test loss {found['test_loss']:.4f}"
                    for name in evaluate:
                        text += f"  {name} accuracy {found[f'{name}_accuracy']:.2%}"
                    if "test_perplexity" in found:
                        text += f"  test perplexity {found['test_perplexity']:.3f}"
                    progress.report(text)
                if is_last or epoch % config.checkpoint_every == 0:
                    _save(checkpoints, step, state, window, feed)
                clock.start()
            if interrupt.requested:
                _save(checkpoints, step, state, window, feed)
                break
    return LoopResult(state, step, step < total_steps, clock.per_second)


def speed_name(task: Task) -> str:
    """What the speed of a run is called in its metrics."""
    return "tokens_per_second" if task.is_text else "images_per_second"


def _units(task: Task) -> int:
    """Images, or tokens, in an example."""
    return task.dataset.input_shape[0] if task.is_text else 1


def _stall(feed: ResidentFeed | StreamFeed, before: float | None) -> dict[str, float]:
    """Since then, the seconds that steps waited for a stream of data."""
    if feed.stall_seconds is None or before is None:
        return {}
    return {"stall_seconds": feed.stall_seconds - before}


def _make_evaluations(config: TrainConfig, task: Task, loss: Loss):
    """Returns, by split, functions from a state to loss and accuracy."""
    data, size = task.dataset, evaluation_batch_size(task)
    evaluate = {}
    if isinstance(data, StreamingDataset):
        evaluate["test"] = make_stream_evaluate(task, loss, size, config.test_examples)
    else:
        examples = evaluation_examples(data, config.test_examples)
        evaluate["test"] = make_evaluate(task, loss, examples, size)
    if task.held_out is not None:
        evaluate["validation"] = make_evaluate(task, loss, task.held_out, size)
    return evaluate


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


def _evaluate(
    evaluate, state: TrainState, step: int, is_text: bool
) -> dict[str, float]:
    """Returns loss and accuracy on each split, and the perplexity of a text.

    A perplexity beyond the range of numbers is left out.
    """
    found = {}
    for name, evaluate_split in evaluate.items():
        value, accuracy = evaluate_split(state)
        if not np.isfinite(value):
            raise NonFiniteLoss(step, f"non-finite {name} loss ({value})")
        found |= {f"{name}_loss": value, f"{name}_accuracy": accuracy}
        if is_text and value < math.log(sys.float_info.max):
            found[f"{name}_perplexity"] = math.exp(value)
    return found


class _Clock:
    """Measures training without evaluations, checkpoints and compilation."""

    def __init__(self, per_step: int):
        self._per_step = per_step
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
        return self._steps * self._per_step / seconds

    @property
    def per_second(self) -> float | None:
        if not self._total_steps:
            return None
        return self._total_steps * self._per_step / self._total_seconds


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


def _save(checkpoints, step: int, state: TrainState, window, feed) -> None:
    pending = _fetch(window, step)
    # Not the optimizer's state, which may start at infinity (a smallest loss, say).
    if not all_finite((state.params, state.model_state)):
        raise NonFiniteLoss(step, "non-finite parameters after the update")
    checkpoints.save(step, state, pending, feed.get_state())
