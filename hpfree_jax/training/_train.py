"""A whole training run: new, or resumed."""

import contextlib
import dataclasses
import io
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.data import AnyDataset, open_dataset
from hpfree_jax.models import MODELS
from hpfree_jax.training._checkpoints import Checkpoints, Restored
from hpfree_jax.training._config import TrainConfig, check_resumable
from hpfree_jax.training._curves import plot_curves
from hpfree_jax.training._files import WriteError, writing
from hpfree_jax.training._interrupt import Interrupt
from hpfree_jax.training._loop import NonFiniteLoss, run_loop, speed_name
from hpfree_jax.training._run_directory import RunDirectory, default_directory
from hpfree_jax.training._sample import draw_text
from hpfree_jax.training._state import Task, TrainState, check_fits, start
from hpfree_jax.training._steps import metric_names


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


def train(config: TrainConfig) -> TrainResult:
    """Trains a network from the beginning and writes the directory of the run.

    Raises:
      UserError: if something in the configuration is impossible; nothing is written.
      DivergedError: if the loss becomes infinite or NaN; what was saved stays.
      StoppedError: if Ctrl-C ends the run while it is not between two steps.
    """
    begin = time.perf_counter()
    config.check()
    directory = RunDirectory(config.output_dir or default_directory(config))
    directory.check_is_new()
    dataset = _load(config)
    task, state = _start(config, dataset)
    with directory.lock(), _resumable(directory):
        directory.check_is_new()  # again: another process may have been first
        directory.write_config(config, first_step=0)
        directory.metrics.path.touch()
        with _resumable_checkpoints(directory) as checkpoints:
            first = Restored(state, _NO_METRICS, None)
            return _run(config, directory, checkpoints, task, first, begin)


def resume(
    directory: Path | str, changes: Mapping[str, Any] | None = None
) -> TrainResult:
    """Continues a run from its newest checkpoint, as if it had not stopped.

    Args:
      directory: of the run.
      changes: settings to change; only those that change no step already made.

    Raises:
      UserError: if there is no run, if it is finished or damaged, if another process
        trains in its directory, or if a change is impossible.
      DivergedError: as in :func:`train`.
      StoppedError: as in :func:`train`.
    """
    begin = time.perf_counter()
    run = RunDirectory(Path(directory))
    stored = run.read_config()
    config = dataclasses.replace(stored, **(changes or {}))
    check_resumable(stored, config)
    config.check()
    with run.lock(), _resumable(run):
        return _continue(run, stored, config, begin)


def _continue(run: RunDirectory, stored, config: TrainConfig, begin) -> TrainResult:
    task, state = _start(config, _load(config))
    with _resumable_checkpoints(run) as checkpoints:
        step, restored = checkpoints.latest() or 0, Restored(state, _NO_METRICS, None)
        if step:
            num_metrics = len(metric_names(task))
            restored = checkpoints.restore(step, state, num_metrics)
        total = config.epochs * task.steps_per_epoch
        # Killed after its last step, a run has yet to write its results.
        if step > total or (step == total and run.is_finished(step)):
            more = 2 * stored.epochs
            raise UserError(
                f"the run {run.path} is finished: its checkpoint is at step {step} and "
                f"{config.epochs} epochs are {total} steps; to train on, add "
                f"--epochs {more}"
            )
        for change in run.changed_versions():
            print(f"note: {change}, so the last digits may differ", flush=True)
        run.metrics.drop_after(step)
        run.write_config(config, first_step=step)
        print(f"resuming {run.path} at step {step} of {total}", flush=True)
        return _run(config, run, checkpoints, task, restored, begin)


@contextlib.contextmanager
def _resumable_checkpoints(run: RunDirectory) -> Iterator[Checkpoints]:
    """Opens the checkpoints; makes a full disk say from which the run continues."""
    with Checkpoints(run.checkpoints) as checkpoints:
        try:
            yield checkpoints
        except WriteError as error:
            raise UserError(
                f"{error}; {_last_good(checkpoints)}; make room, or make {run.path} "
                f"writable, and continue with {resume_command(run.path)}"
            ) from error


def _last_good(checkpoints: Checkpoints) -> str:
    good = checkpoints.latest()
    if good is None:
        return "no checkpoint was made before"
    return f"the last good checkpoint is {checkpoints.path(good)}"


def _load(config: TrainConfig) -> AnyDataset:
    """Opens the data, in the way that suits its kind, if the model fits it."""
    with _enough_memory(config):
        if (config.width or 0) >= 2**31:
            raise OverflowError(f"width {config.width} is not below 2**31")
        check_fits(config)
    context = config.context or MODELS[config.model].defaults.get("context")
    return open_dataset(config.dataset, config.data_dir, context)


class DivergedError(UserError):
    """The loss became infinite or NaN; the message says when and what is saved."""


class StoppedError(KeyboardInterrupt):
    """Ctrl-C came where nothing could be saved; what was saved before stays.

    Attributes:
      directory: of the run, which can be resumed.
    """

    def __init__(self, directory: Path):
        super().__init__(f"stopped at once; to continue: {resume_command(directory)}")
        self.directory = directory


@contextlib.contextmanager
def _resumable(run: RunDirectory) -> Iterator[None]:
    """Makes an interruption say which run can be continued, if there is one."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not run.config_file.exists():
            raise
        raise StoppedError(run.path) from error


@contextlib.contextmanager
def _enough_memory(config: TrainConfig) -> Iterator[None]:
    """Turns what Python, NumPy and JAX raise of impossible sizes into one error."""
    try:
        yield
    except UserError:
        raise
    except (MemoryError, NotImplementedError, OverflowError) as error:
        raise _too_large(config, error) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(config, error) from error


def _start(config: TrainConfig, dataset: AnyDataset) -> tuple[Task, TrainState]:
    """Begins like :func:`start`, but only what fits into the machine's memory.

    Asked first by the shapes alone: of some sizes XLA does not raise, it aborts.
    """
    with _enough_memory(config):
        with contextlib.redirect_stdout(io.StringIO()):  # it is printed below
            shapes = jax.eval_shape(lambda: start(config, dataset)[1])
        leaves = jax.tree.leaves(shapes)
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        if size > (memory := _memory()):
            gigabytes = f"{size / 1e9:,.1f} GB of {memory / 1e9:,.1f} GB"
            raise MemoryError(f"the weights and the method's state take {gigabytes}")
        return start(config, dataset)


def _memory() -> float:
    """Bytes of memory of the machine; infinity where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


def _too_large(config: TrainConfig, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    sizes = [f"`{name}`" for name in ("width", "depth") if getattr(config, name)]
    return UserError(
        f"model {config.model} is too large for this machine "
        f"({type(error).__name__}: {reason}); make {', '.join(sizes)}"
        f"{' or ' if sizes else ''}`batch_size` smaller"
    )


def resume_command(directory: Path) -> str:
    """The command that continues a run."""
    return f"hpfree train --resume {shlex.quote(str(directory))}"


_NO_METRICS = np.zeros((0, 0), np.float32)


def _run(
    config: TrainConfig,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    task: Task,
    restored: Restored,
    begin: float,
) -> TrainResult:
    state, pending, data_state = restored
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    summary: dict[str, Any] = {"num_params": num_params}
    if task.held_out:
        held_out, rest = len(task.held_out.labels), task.dataset.num_train
        print(
            f"held out: {held_out} of {held_out + rest} training examples", flush=True
        )
    try:
        with _enough_memory(config):
            result = run_loop(
                config,
                task,
                state,
                pending,
                directory.metrics,
                checkpoints,
                data_state,
            )
    except NonFiniteLoss as error:
        summary |= {"status": "diverged", "step": error.step}
        _write_results(config, task, directory, summary, begin)
        raise DivergedError(
            f"{error}; {_last_good(checkpoints)}; all files stay in {directory.path}; "
            f"try a smaller step ({task.method.remedy}) in a new run"
        ) from error
    summary |= {
        "status": "interrupted" if result.interrupted else "finished",
        "step": result.step,
        "epochs": result.step / task.steps_per_epoch,
        speed_name(task): result.per_second,
    }
    if notes := task.dataset.damage():
        for note in notes:
            print(f"note: {note}", flush=True)
        summary["skipped"] = notes
    with Interrupt() as interrupt:  # a picture takes a second: finish it
        opt_state = result.state.opt_state
        _write_results(config, task, directory, summary, begin, opt_state)
        sample = None
        if config.sample_tokens and not result.interrupted:
            sample = draw_text(task, result.state, config.sample_tokens, config.seed)
            with writing(directory.sample):
                directory.sample.write_text(sample, encoding="utf-8")
    return TrainResult(
        directory.path,
        result.state,
        task,
        result.step,
        result.interrupted or interrupt.requested,
        summary["test_accuracy"],
        summary["test_loss"],
        summary.get("images_per_second"),
        summary["seconds"],
        summary.get("validation_accuracy"),
        summary.get("validation_loss"),
        summary.get("test_perplexity"),
        summary.get("tokens_per_second"),
        sample,
    )


def _write_results(
    config, task: Task, directory: RunDirectory, summary, begin, opt_state=None
) -> None:
    """Adds the latest metrics to the summary; writes it and the picture."""
    lines = directory.metrics.read()
    splits = ["test", "validation"] if task.held_out else ["test"]
    measured = ["loss", "accuracy", *(["perplexity"] if task.is_text else [])]
    evaluated = [f"{split}_{key}" for split in splits for key in measured]
    for key in ("loss", "accuracy", *evaluated):
        values = [line[key] for line in lines if key in line]
        summary[key] = values[-1] if values else None
    title = f"{config.model} on {config.dataset} with {config.method}"
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
    summary["seconds"] = time.perf_counter() - begin
    with writing(directory.summary):
        directory.write_json(directory.summary.name, summary)
