"""``hpfree train``: from command-line arguments to a run and an exit code."""

from pathlib import Path

from hpfree_jax._options import Option
from hpfree_jax.commands import ExitCode
from hpfree_jax.commands._arguments import (
    Flag,
    flags_of,
    parse_arguments,
    row_flags,
    typed_value,
    with_settings,
)
from hpfree_jax.methods import METHODS
from hpfree_jax.models import MODELS
from hpfree_jax.training import StoppedError, TrainConfig, TrainResult, resume, train
from hpfree_jax.training.engine import resume_command

# Which options the help text shows under which title; all others under "run".
DATA = (
    *("dataset", "data_dir", "augment", "validation_fraction", "batch_size"),
    *("accumulate", "test_examples"),
)
METHOD = ("loss", "init", "scale_learning_rate")


def run_train(args: list[str]) -> int:
    """Trains as the arguments say; returns the exit code.

    Raises:
      UserError: for everything that the user can mend.
      DivergedError: if the loss becomes infinite or NaN.
    """
    given = with_settings(_parse(args), TrainConfig)
    directory = given.pop("resume", None)
    try:
        if directory is None:
            result = train(TrainConfig(**given))
        else:
            result = resume(directory, given)
    except StoppedError as stop:
        print("stopped at once; what was saved before stays; to continue:")
        print(f"  {resume_command(stop.directory)}", flush=True)
        return ExitCode.INTERRUPTED
    _print_result(result)
    return ExitCode.INTERRUPTED if result.interrupted else ExitCode.DONE


def _parse(args: list[str]) -> dict:
    general = flags_of(TrainConfig)
    general["resume"] = Flag(
        Path, Option("Directory of a run to continue from its last checkpoint.")
    )
    model, method = (typed_value(args, general, name) for name in ("model", "method"))
    models = {name: row.settings for name, row in MODELS.items()}
    inner = typed_value(args, {"inner": Flag(str, Option(""))}, "inner")
    methods = {
        name: dict(
            setting
            for inner in row.inners or (None,)
            for setting in row.settings_with(inner).items()
        )
        for name, row in METHODS.items()
    }
    if method in METHODS:
        methods[method] = METHODS[method].settings_with(inner)
    all_models, own_model = row_flags(models, model)
    all_methods, own_method = row_flags(methods, method)
    run = [name for name in general if name not in ("model", "method", *DATA, *METHOD)]
    groups = {
        "model": ["model", *own_model],
        "method": ["method", *own_method, *METHOD],
        "data": DATA,
        "run": run,
    }
    description = (
        f"{TrainConfig.__doc__}\n\nThese are the options of model {model} and method "
        f"{method}. Those of others are shown by, for instance:\n\n"
        "hpfree train --model gpt_char --method marthe --help"
    )
    flags = all_models | all_methods | general
    return parse_arguments("train", args, flags, description, groups)


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
