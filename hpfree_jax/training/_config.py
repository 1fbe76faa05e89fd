"""The configuration of a training run: what the command line and a run's file hold."""

import dataclasses
import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from hpfree_jax._errors import UserError, check_positive, look_up
from hpfree_jax._options import Option
from hpfree_jax.data import DATASETS, dataset_kind
from hpfree_jax.methods import METHODS, depends_on_total_steps, method_settings
from hpfree_jax.training._losses import LOSSES, LossName
from hpfree_jax.training._model_config import (
    ModelConfig,
    check_kind,
)

Init = Literal["principled", "agd", "default"]
INITS = get_args(Init)
# Models, datasets and methods are any `str` to a type checker: users add rows to their
# tables, and a misspelt name is an error before training starts.
# Choices of settings that the table of methods owns, for type checkers and editors.
Schedule = Literal["constant", "cosine", "staircase", "exponential", "cosine_restarts"]
Inner = Literal["sgd", "adam", "adamw", "nadamw"]
Rule = Literal["multiplicative", "additive"]

# What a resumed run may change: none of it changes the steps already made.
RESUMABLE = (
    *("epochs", "data_dir", "log_every", "evaluate_every", "checkpoint_every"),
    *("steps_per_call", "test_examples", "sample_tokens"),
)


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """A training method. None stands for not given: its own default, see METHODS."""

    method: Annotated[str, Option("Training method.", METHODS)] = "auto"

    gain: float | None = None
    momentum: float | None = None
    learning_rate: float | None = None
    schedule: Schedule | None = None
    warmup_fraction: float | None = None
    weight_decay: float | None = None
    inner: Inner | None = None
    hyper_learning_rate: float | None = None
    rule: Rule | None = None
    discount: float | None = None
    adaptation_rate: float | None = None
    min_learning_rate: float | None = None
    max_learning_rate: float | None = None
    max_warmup_fraction: float | None = None
    test_every: int | None = None
    immediate_cooldown: bool | None = None


METHOD_SETTINGS = tuple(
    field.name for field in dataclasses.fields(MethodConfig) if field.name != "method"
)


@dataclasses.dataclass(frozen=True)
class TrainConfig(MethodConfig, ModelConfig):
    """Trains a model and writes metrics, curves and checkpoints to a directory."""

    loss: Annotated[
        LossName | None,
        Option(
            "Loss function.",
            unset="cross_entropy for auto and for text, else square",
        ),
    ] = None
    init: Annotated[
        Init | None, Option("Initialisation scheme.", unset="the method's own")
    ] = None
    scale_learning_rate: Annotated[
        bool, Option("Scale the learning rate by the architecture's factor.")
    ] = False

    dataset: Annotated[
        str, Option("Dataset, or a folder with train.bin and val.bin.", DATASETS)
    ] = "digits"
    data_dir: Annotated[
        Path | None,
        Option("TFDS directory.", unset="$TFDS_DATA_DIR or ~/tensorflow_datasets"),
    ] = None
    augment: Annotated[
        bool, Option("Augment the training images (random crop and flip).")
    ] = False
    validation_fraction: Annotated[
        float | None,
        Option(
            "Fraction of the training data held out.",
            unset="0.1 for rtho and marthe, else 0",
        ),
    ] = None
    batch_size: Annotated[int, Option("Examples per step.")] = 64
    accumulate: Annotated[int, Option("Gradient-accumulation steps per batch.")] = 1
    test_examples: Annotated[
        int | None,
        Option("Test examples per evaluation.", unset="all; at most 2048 for text"),
    ] = None

    epochs: Annotated[int, Option("Passes over the training data.")] = 30
    seed: Annotated[int, Option("Seed of the weights and of the data order.")] = 0
    output_dir: Annotated[
        Path | None,
        Option("New directory for the run.", unset="runs/DATASET-MODEL-METHOD-TIME"),
    ] = None
    log_every: Annotated[int, Option("Steps between two lines of metrics.")] = 50
    evaluate_every: Annotated[int, Option("Epochs between two evaluations.")] = 1
    checkpoint_every: Annotated[int, Option("Epochs between two checkpoints.")] = 1
    steps_per_call: Annotated[
        int | None,
        Option("Steps per compiled call.", unset="1 on a CPU, else --log-every"),
    ] = None
    sample_tokens: Annotated[
        int, Option("Tokens to generate at the end, into sample.txt; text only.")
    ] = 0

    def __post_init__(self) -> None:
        for name in ("data_dir", "output_dir"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))

    @property
    def method_settings(self) -> dict[str, Any]:
        """The settings of methods; None where not given."""
        return self._settings(METHOD_SETTINGS, self._method_owner())

    def _method_owner(self) -> Collection[str]:
        return METHODS[self.method].settings_with(self.inner)

    def _owners(self) -> dict[str, Collection[str]]:
        return super()._owners() | {f"method {self.method}": self._method_owner()}

    @property
    def is_text(self) -> bool:
        """Whether the data are tokens."""
        return dataset_kind(self.dataset) == "tokens"

    @property
    def chosen_loss(self) -> str:
        """The loss, that of the data or the method where none is given."""
        if self.loss:
            return self.loss
        return "cross_entropy" if self.is_text else METHODS[self.method].loss

    @property
    def chosen_init(self) -> Init:
        """The initialisation, the method's own where none is given."""
        return self.init or cast(Init, METHODS[self.method].init)

    @property
    def held_out(self) -> float:
        """The share of the training data held out, the method's own if not given."""
        if self.validation_fraction is None:
            return METHODS[self.method].validation_fraction
        return self.validation_fraction

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong without any data."""
        dataset_kind(self.dataset)
        look_up("method", self.method, METHODS)
        super().check()
        check_kind(self.model, self.dataset)
        settings = method_settings(self.method, self.method_settings)
        look_up("loss", self.chosen_loss, LOSSES)
        if self.init is not None:
            look_up("init", self.init, dict.fromkeys(INITS))
        check_positive(
            self,
            *("epochs", "batch_size", "log_every", "evaluate_every"),
            *("checkpoint_every", "steps_per_call", "accumulate", "test_examples"),
        )
        self._check_data_settings()
        if self.scale_learning_rate and "learning_rate" not in settings:
            raise UserError(
                f"`scale_learning_rate` does not apply to method {self.method}, "
                "which has no learning rate to scale; leave it out"
            )
        if not 0 <= self.held_out < 1:
            raise UserError(
                f"`validation_fraction` must lie in [0, 1), got {self.held_out}"
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"`seed` must lie in [0, 2**32), got {self.seed}")

    def _check_data_settings(self) -> None:
        if self.batch_size % self.accumulate:
            raise UserError(
                f"`batch_size` {self.batch_size} cannot be divided into `accumulate` "
                f"{self.accumulate} equal parts; make it a multiple"
            )
        entry = DATASETS.get(self.dataset)
        if self.augment and (entry is None or not any(entry.augmentation)):
            raise UserError(
                f"`augment` does not apply to dataset {self.dataset}, which its "
                "sources use as it is; leave it out"
            )
        if self.is_text and self.chosen_loss == "square":
            raise UserError(
                f"`loss` square does not apply to dataset {self.dataset}: perplexity "
                "is that of a probability; take cross_entropy, or leave it out"
            )
        if self.sample_tokens < 0:
            raise UserError(
                f"`sample_tokens` must be at least 0, got {self.sample_tokens}"
            )
        if self.sample_tokens and not self.is_text:
            raise UserError(
                f"`sample_tokens` {self.sample_tokens} does not apply to dataset "
                f"{self.dataset}, which holds images; leave it out"
            )


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration with paths as strings."""
    fields = dataclasses.asdict(config)
    if not config.settings:
        del fields["settings"]
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


def from_json(fields: dict[str, Any], where: str) -> TrainConfig:
    """Returns the configuration that :func:`to_json` wrote to the file ``where``."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    unknown = sorted(fields.keys() - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], sorted(known), n=1)
        hint = f" (did you mean `{close[0]}`?)" if close else ""
        raise UserError(
            f"{where} has the unknown setting `{unknown[0]}`{hint}; it comes from "
            "another version of hpfree_jax, so start the run anew"
        )
    return TrainConfig(**fields)


def check_resumable(stored: TrainConfig, wanted: TrainConfig) -> None:
    """Raises UserError if the wanted run would not have begun like the stored one."""
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(stored, field.name), getattr(wanted, field.name)
        if old == new or field.name in RESUMABLE[1:]:
            continue
        if field.name == "epochs":
            if not depends_on_total_steps(stored.method, stored.method_settings):
                continue
            why = "its learning rate is scheduled for that length"
        else:
            why = f"the checkpoint is of a run with `{field.name}` {old}"
        raise UserError(
            f"`{field.name}` cannot become {new} when resuming: {why}; leave it out, "
            "or start a new run without --resume"
        )
