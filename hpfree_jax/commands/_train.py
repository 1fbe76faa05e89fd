"""``hpfree train``: from command-line arguments to a run and an exit code."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from hpfree_jax.commands._arguments import parse_arguments
from hpfree_jax.training import (
    StoppedError,
    TrainConfig,
    TrainResult,
    resume,
    train,
)
from hpfree_jax.training.engine import RunDirectory, resume_command

PROGRAM = "hpfree train"
INTERRUPTED = 130
_FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]


@dataclasses.dataclass(frozen=True)
class TrainCommand(TrainConfig):
    """Trains a network and writes metrics, curves and checkpoints to a directory.

    None stands for not given, or for a default that depends on other options.
    """

    resume: Annotated[
        Path | None,
        tyro.conf.arg(help="Directory of a run to continue from its last checkpoint."),
    ] = None


def run_command(args: list[str]) -> int:
    """Trains as the arguments say; returns the exit code.

    Raises:
      UserError: for everything that the user can mend.
      DivergedError: if the loss becomes infinite or NaN.
    """
    command = parse_arguments(args, TrainCommand(), PROGRAM)
    if command.resume is None:
        run = lambda: train(_config(command))
    else:
        # Parsed again over the settings of the run: what differs was asked for.
        stored = RunDirectory(command.resume).read_config()
        command = parse_arguments(args, TrainCommand(**vars(stored)), PROGRAM)
        run = lambda: resume(command.resume or Path(), vars(_config(command)))
    try:
        result = run()
    except StoppedError as stop:
        print("stopped at once; what was saved before stays; to continue:")
        print(f"  {resume_command(stop.directory)}", flush=True)
        return INTERRUPTED
    _print_result(result)
    return INTERRUPTED if result.interrupted else 0


def _config(command: TrainCommand) -> TrainConfig:
    return TrainConfig(**{name: getattr(command, name) for name in _FIELDS})


def _print_result(result: TrainResult) -> None:
    if result.test_accuracy is not None:
        print(f"test accuracy: {result.test_accuracy:.2%}")
    if result.test_perplexity is not None:
        print(f"test perplexity: {result.test_perplexity:.3f}")
    if result.images_per_second is not None:
        print(f"images per second: {result.images_per_second:,.0f}")
    if result.tokens_per_second is not None:
        print(f"tokens per second: {result.tokens_per_second:,.0f}")
    if result.sample is not None:
        print(f"sample, also in {result.directory / 'sample.txt'}:\n{result.sample}")
    print(f"curves: {result.directory / 'curves.png'}")
    if result.interrupted:
        print(f"stopped at step {result.step}, and saved; to continue:")
        print(f"  {resume_command(result.directory)}")
