"""A whole training run: new, or resumed."""

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.data import AnyDataset, open_dataset
from hpfree_jax.models import MODELS
from hpfree_jax.training._checkpoints import Checkpoints, Restored
from hpfree_jax.training._config import TrainConfig, check_resumable
from hpfree_jax.training._files import WriteError, default_directory, lock
from hpfree_jax.training._loop import Intervals
from hpfree_jax.training._memory import check_state_fits, enough_memory
from hpfree_jax.training._progress import Progress
from hpfree_jax.training._run_directory import RunDirectory
from hpfree_jax.training._session import LOGGER, Session, TrainResult, last_good
from hpfree_jax.training._state import Task, TrainState, check_fits, prepare
from hpfree_jax.training._steps import metric_names

_NO_METRICS = np.zeros((0, 0), np.float32)


class StoppedError(KeyboardInterrupt):
    """Ctrl-C came where nothing could be saved; what was saved before stays.

    Attributes:
      directory: of the run, which can be resumed.
    """

    def __init__(self, directory: Path):
        super().__init__(f"stopped at once; to continue: {resume_command(directory)}")
        self.directory = directory


def train(config: TrainConfig, progress: Progress | None = None) -> TrainResult:
    """Trains a network from the beginning and writes the directory of the run.

    Args:
      config: the configuration.
      progress: is told how far the run is; None: it is printed.

    Raises:
      UserError: if something in the configuration is impossible; nothing is written.
      DivergedError: if the loss becomes infinite or NaN; what was saved stays.
      StoppedError: if Ctrl-C ends the run while it is not between two steps.
    """
    begin = time.perf_counter()
    config.check()
    directory = RunDirectory(config.output_dir or default_directory(_name(config)))
    directory.check_is_new()
    task, state = _prepare(config, _open(config))
    with lock(directory.path), _resumable(directory):
        directory.check_is_new()  # again: another process may have been first
        directory.write_config(config, first_step=0)
        directory.metrics.path.touch()
        with _resumable_checkpoints(directory) as checkpoints, _memory_for(config):
            session = _session(config, task, directory, checkpoints, progress, begin)
            return session.run(Restored(state, _NO_METRICS, None))


def resume(
    directory: Path | str,
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Continues a run from its newest checkpoint, as if it had not stopped.

    Args:
      directory: of the run.
      changes: settings to change; only those that change no step already made.
      progress: is told how far the run is; None: it is printed.

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
    with lock(run.path), _resumable(run):
        task, state = _prepare(config, _open(config))
        with _resumable_checkpoints(run) as checkpoints, _memory_for(config):
            session = _session(config, task, run, checkpoints, progress, begin)
            restored = _restore(session, state, 2 * stored.epochs)
            run.write_config(config, first_step=int(restored.state.step))
            return session.run(restored)


def resume_command(directory: Path) -> str:
    """Returns the command that continues a run."""
    return f"hpfree train --resume {shlex.quote(str(directory))}"


def _restore(session: Session, state: TrainState, more_epochs: int) -> Restored:
    """Returns the newest checkpoint; drops the metrics of later steps."""
    run, checkpoints, task = session.directory, session.checkpoints, session.task
    step, restored = checkpoints.latest() or 0, Restored(state, _NO_METRICS, None)
    if step:
        restored = checkpoints.restore(step, state, len(metric_names(task)))
    total = session.intervals.total_steps
    # Killed after its last step, a run has yet to write its results.
    if step > total or (step == total and run.is_finished(step)):
        raise UserError(
            f"the run {run.path} is finished: its checkpoint is at step {step} and "
            f"{total // task.steps_per_epoch} epochs are {total} steps; to train on, "
            f"add --epochs {more_epochs}"
        )
    for change in run.changed_versions():
        LOGGER.warning("%s, so the last digits may differ", change)
    run.metrics.drop_after(step)
    session.progress.say(f"resuming {run.path} at step {step} of {total}")
    return restored


def _session(
    config: TrainConfig,
    task: Task,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    progress: Progress | None,
    begin: float,
) -> Session:
    """Reads from the configuration what the session needs, in steps."""
    per_epoch = task.steps_per_epoch
    intervals = Intervals(
        total_steps=config.epochs * per_epoch,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every * per_epoch,
        save_every=config.checkpoint_every * per_epoch,
        restart_every=per_epoch,
    )
    steps_per_call = config.steps_per_call
    if steps_per_call is None and jax.default_backend() != "cpu":
        steps_per_call = config.log_every
    progress = progress or Progress()
    for note in task.notes:
        progress.say(note)
    return Session(
        task,
        intervals,
        directory,
        checkpoints,
        progress,
        f"{config.model} on {config.dataset} with {config.method}",
        begin,
        steps_per_call,
        config.test_examples,
        config.sample_tokens,
    )


def _name(config: TrainConfig) -> str:
    data = Path(config.dataset).name  # of a folder, its last part
    return f"{data}-{config.model}-{config.method}"


def _open(config: TrainConfig) -> AnyDataset:
    """Opens the data, if the model fits it."""
    with _memory_for(config):
        if (config.width or 0) >= 2**31:
            raise OverflowError(f"width {config.width} is not below 2**31")
        check_fits(config)
    context = config.context or MODELS[config.model].defaults.get("context")
    return open_dataset(config.dataset, config.data_dir, context)


def _prepare(config: TrainConfig, dataset: AnyDataset) -> tuple[Task, TrainState]:
    """Prepares the run, if its state fits into the machine's memory."""
    with _memory_for(config):
        check_state_fits(jax.eval_shape(lambda: prepare(config, dataset)[1]))
        return prepare(config, dataset)


def _memory_for(config: TrainConfig) -> AbstractContextManager[None]:
    """Turns errors of too little memory into one that names the sizes to reduce."""
    sizes = [f"`{name}`" for name in ("width", "depth") if getattr(config, name)]
    remedy = f"make {', '.join(sizes)}{' or ' if sizes else ''}`batch_size` smaller"
    return enough_memory(f"model {config.model} is too large for this machine", remedy)


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
def _resumable_checkpoints(run: RunDirectory) -> Iterator[Checkpoints]:
    """Opens the checkpoints; makes a full disk say from which the run continues."""
    with Checkpoints(run.checkpoints) as checkpoints:
        try:
            yield checkpoints
        except WriteError as error:
            raise UserError(
                f"{error}; {last_good(checkpoints)}; make room, or make {run.path} "
                f"writable, and continue with {resume_command(run.path)}"
            ) from error
