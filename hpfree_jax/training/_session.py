"""One session of a training run: from its windows to its files."""

import contextlib
import dataclasses
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.training._checkpoints import Checkpoints, Restored
from hpfree_jax.training._curves import plot_curves
from hpfree_jax.training._evaluation import NonFiniteLoss
from hpfree_jax.training._files import writing
from hpfree_jax.training._interrupt import Interrupt
from hpfree_jax.training._loop import Intervals, Window, make_functions, windows
from hpfree_jax.training._progress import Progress
from hpfree_jax.training._run_directory import RunDirectory
from hpfree_jax.training._sample import draw_text
from hpfree_jax.training._state import Task, TrainState
from hpfree_jax.training._steps import all_finite, metric_names

LOGGER = logging.getLogger("hpfree_jax")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended, and where its files are."""

    directory: Path
    state: TrainState
    task: Task
    step: int  # updates made, over all sessions of the run
    interrupted: bool  # by Ctrl-C or SIGTERM; the state is saved
    test_accuracy: float | None  # of the latest evaluation, None before the first
    test_loss: float | None
    images_per_second: float | None  # of this session, None if it made no step
    seconds: float  # of this session, everything included
    validation_accuracy: float | None = None  # the same, if a split is held out
    validation_loss: float | None = None
    test_perplexity: float | None = None  # of a text
    tokens_per_second: float | None = None  # of a text, in place of images
    sample: str | None = None  # text that was drawn at the end


class DivergedError(UserError):
    """The loss became infinite or NaN; the message says when and what is saved."""


class _End(NamedTuple):
    """How the steps of a session ended."""

    state: TrainState
    step: int
    per_second: float | None  # images, or tokens; None if no window was completed


@dataclasses.dataclass(frozen=True)
class Session:
    """What a session needs of the configuration, and where it writes."""

    task: Task
    intervals: Intervals  # when metrics, evaluations and checkpoints are due
    directory: RunDirectory
    checkpoints: Checkpoints
    progress: Progress
    title: str  # of the curves: model, dataset and method
    begin: float  # when the session began, by time.perf_counter()
    steps_per_call: int | None = None  # see `windows`
    test_examples: int | None = None  # the same
    sample_tokens: int = 0  # to draw from a language model at the end

    def run(self, restored: Restored) -> TrainResult:
        """Trains to the last step, or to an interruption; writes all files.

        Raises:
          DivergedError: if the loss becomes infinite or NaN; what was saved stays.
          WriteError: if a file cannot be written.
        """
        task = self.task
        num_params = sum(leaf.size for leaf in jax.tree.leaves(restored.state.params))
        summary: dict[str, Any] = {"num_params": num_params}
        if task.held_out:
            held_out, rest = len(task.held_out.labels), task.dataset.num_train
            total = held_out + rest
            self.progress.say(f"held out: {held_out} of {total} training examples")
        try:
            end = self._train(restored)
        except NonFiniteLoss as error:
            summary |= {"status": "diverged", "step": error.step}
            self._write_results(summary)
            raise DivergedError(
                f"{error}; {last_good(self.checkpoints)}; all files stay in "
                f"{self.directory.path}; try a smaller step ({task.method.remedy}) in "
                "a new run"
            ) from error
        interrupted = end.step < self.intervals.total_steps
        summary |= {
            "status": "interrupted" if interrupted else "finished",
            "step": end.step,
            "epochs": end.step / task.steps_per_epoch,
            _speed_name(task): end.per_second,
        }
        if notes := task.dataset.damage():
            summary["skipped"] = notes
            for note in notes:
                LOGGER.warning(note)
        with Interrupt() as interrupt:  # a picture takes a second: finish it
            self._write_results(summary, end.state.opt_state)
            sample = None if interrupted else self._write_sample(end.state)
        optional = ("validation_accuracy", "validation_loss", "test_perplexity")
        speeds = ("images_per_second", "tokens_per_second")
        return TrainResult(
            self.directory.path,
            end.state,
            task,
            end.step,
            interrupted or interrupt.requested,
            summary["test_accuracy"],
            summary["test_loss"],
            seconds=summary["seconds"],
            sample=sample,
            **{name: summary.get(name) for name in (*optional, *speeds)},
        )

    def _train(self, restored: Restored) -> _End:
        state, pending, data_state = restored
        step, seconds, num_timed = int(state.step), 0.0, 0
        total_steps = self.intervals.total_steps
        with Interrupt() as interrupt, self.progress.steps(total_steps, step):
            found = windows(
                [self.task],
                [state],
                self.intervals,
                make_functions(self.task),
                steps_per_call=self.steps_per_call,
                test_examples=self.test_examples,
                pending=pending[None],
                data_state=None if data_state is None else [data_state],
                stop=lambda: interrupt.requested,
                progress=self.progress,
            )
            with contextlib.closing(found):
                for window in found:
                    self._write(window)
                    step, state = window.step, window.state
                    if window.is_complete and window.seconds_per_step is not None:
                        num_timed += window.num_timed
                        seconds += window.num_timed * window.seconds_per_step
        work = num_timed * self.task.examples_per_step
        return _End(state, step, work / seconds if num_timed else None)

    def _write(self, window: Window) -> None:
        """Writes the metrics of a window, and what is due at its end."""
        bad = window.first_bad_step()
        if bad is not None:
            value = window.metrics[0, bad - window.step - 1, 0]
            raise NonFiniteLoss(bad, f"non-finite loss ({value})")
        if window.is_complete:
            self._write_metrics(window)
        if window.is_evaluation_due:
            self._evaluate(window)
        if window.is_checkpoint_due or not window.is_complete:
            self._save(window)

    def _write_metrics(self, window: Window) -> None:
        means = window.metrics[0].mean(0, np.float64).tolist()
        # A method without a learning rate leaves it out.
        found = dict(zip(metric_names(self.task), means, strict=True))
        values = {name: mean for name, mean in found.items() if math.isfinite(mean)}
        if window.seconds_per_step:
            rate = self.task.examples_per_step / window.seconds_per_step
            values[_speed_name(self.task)] = rate
        if window.stall_seconds is not None:
            values["stall_seconds"] = window.stall_seconds
        epoch = window.step / self.task.steps_per_epoch
        self.directory.metrics.append(step=window.step, epoch=epoch, **values)

    def _evaluate(self, window: Window) -> None:
        """Writes loss and accuracy on each split, and the perplexity of a text.

        A perplexity beyond the range of numbers is left out.
        """
        found, text = {}, ""
        for split, (value, accuracy) in window.evaluate().items():
            if not np.isfinite(value):
                raise NonFiniteLoss(window.step, f"non-finite {split} loss ({value})")
            found |= {f"{split}_loss": value, f"{split}_accuracy": accuracy}
            if self.task.is_text and value < math.log(sys.float_info.max):
                found[f"{split}_perplexity"] = math.exp(value)
            text += f"  {split} accuracy {accuracy:.2%}"
        self.directory.metrics.append(step=window.step, **found)
        per_epoch = self.task.steps_per_epoch
        epoch, epochs = (
            window.step // per_epoch,
            self.intervals.total_steps // per_epoch,
        )
        text = f"epoch {epoch}/{epochs}  test loss {found['test_loss']:.4f}{text}"
        if "test_perplexity" in found:
            text += f"  test perplexity {found['test_perplexity']:.3f}"
        self.progress.report(text)

    def _save(self, window: Window) -> None:
        state = window.state
        # Not the optimizer's state, which may start at infinity (a smallest loss, say).
        if not all_finite((state.params, state.model_state)):
            what = "non-finite parameters after the update"
            raise NonFiniteLoss(window.step, what)
        pending = window.metrics[0]
        if window.is_complete:  # then a line of metrics covers the steps
            pending = pending[:0]
        data_state = window.data_state[0] if window.data_state else None
        self.checkpoints.save(window.step, state, pending, data_state)

    def _write_results(self, summary: dict[str, Any], opt_state: Any = None) -> None:
        """Adds the latest metrics to the summary; writes it and the curves."""
        task, directory = self.task, self.directory
        lines = directory.metrics.read()
        splits = ["test", "validation"] if task.held_out else ["test"]
        measured = ["loss", "accuracy", *(["perplexity"] if task.is_text else [])]
        evaluated = [f"{split}_{key}" for split in splits for key in measured]
        for key in ("loss", "accuracy", *evaluated):
            values = [line[key] for line in lines if key in line]
            summary[key] = values[-1] if values else None
        title = self.title
        if summary["test_accuracy"] is not None:
            title += f": test accuracy {summary['test_accuracy']:.2%}"
        with writing(directory.curves):
            plot_curves(
                lines,
                directory.curves,
                title,
                task.method.panels(lines, opt_state),
                is_rate_scheduled="schedule" in task.method.settings,
            )
        summary["seconds"] = time.perf_counter() - self.begin
        with writing(directory.summary):
            directory.write_json(directory.summary.name, summary)

    def _write_sample(self, state: TrainState) -> str | None:
        if not self.sample_tokens:
            return None
        sample = draw_text(self.task, state, self.sample_tokens)
        with writing(self.directory.sample):
            self.directory.sample.write_text(sample, encoding="utf-8")
        return sample


def last_good(checkpoints: Checkpoints) -> str:
    """Says which checkpoint a run can continue from."""
    good = checkpoints.latest()
    if good is None:
        return "no checkpoint was made before"
    return f"the last good checkpoint is {checkpoints.path(good)}"


def _speed_name(task: Task) -> str:
    return "tokens_per_second" if task.is_text else "images_per_second"
