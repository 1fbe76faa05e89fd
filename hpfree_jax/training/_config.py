"""The configuration of a training run: what the command line and a run's file hold."""

import dataclasses
import difflib
from pathlib import Path
from typing import Annotated, Any

from hpfree_jax._errors import UserError, look_up
from hpfree_jax.data import DATASETS
from hpfree_jax.methods._hypergradients import RULES
from hpfree_jax.methods._registry import (
    INNERS,
    METHODS,
    depends_on_total_steps,
    method_settings,
)
from hpfree_jax.methods._schedules import SCHEDULES
from hpfree_jax.training._losses import LOSSES
from hpfree_jax.training._model_config import (
    ModelConfig,
    check_kind,
    check_positive,
    dataset_kind,
    option,
)

INITS = ("principled", "agd", "default")

METHOD_SETTINGS = (
    *("gain", "momentum", "learning_rate", "schedule"),
    *("warmup_fraction", "weight_decay", "inner", "hyper_learning_rate", "rule"),
    *("discount", "adaptation_rate", "min_learning_rate", "max_learning_rate"),
    *("max_warmup_fraction", "test_every", "immediate_cooldown"),
)
# What a resumed run may change: none of it changes the steps already made.
RESUMABLE = (
    *("epochs", "data_dir", "log_every", "evaluate_every", "checkpoint_every"),
    *("steps_per_call", "test_examples", "sample_tokens"),
)


@dataclasses.dataclass(frozen=True)
class TrainConfig(ModelConfig):
    """Trains a network and writes metrics, curves and checkpoints to a directory.

    None stands for a default that depends on other settings, or for not given.
    """

    dataset: Annotated[
        str, option("Data; also a folder with train.bin and val.bin.", DATASETS)
    ] = "digits"
    augment: Annotated[
        bool, option("Draw images anew: shifted, mirrored, as the data's sources do.")
    ] = False

    method: Annotated[str, option("Training method.", METHODS)] = "auto"
    loss: Annotated[
        str | None,
        option("Loss; None: cross_entropy for auto and texts, else square.", LOSSES),
    ] = None
    epochs: Annotated[int, option("Passes over the training data.")] = 30
    batch_size: Annotated[int, option("Examples in a step.")] = 64
    accumulate: Annotated[
        int, option("Parts of a batch that are in memory one after another.")
    ] = 1
    seed: Annotated[int, option("Seed of the weights and of the order of data.")] = 0

    init: Annotated[
        str | None, option("Weights; None: what belongs to the method.", INITS)
    ] = None

    gain: Annotated[float | None, option("agd: factor of its updates.")] = None
    momentum: Annotated[float | None, option("agd, sgd: decay of the average.")] = None
    learning_rate: Annotated[
        float | None,
        option("Optax's methods: the largest. hd, rtho, marthe: the first."),
    ] = None
    scale_learning_rate: Annotated[
        bool, option("Multiply the learning rate by the model's factor.")
    ] = False
    schedule: Annotated[
        str | None, option("The optax methods: shape of the rate.", SCHEDULES)
    ] = None
    warmup_fraction: Annotated[
        float | None, option("The optax methods: share of the steps that warm up.")
    ] = None
    weight_decay: Annotated[float | None, option("adamw, nadamw: decay.")] = None

    inner: Annotated[
        str | None,
        option(
            "Optimizer whose rate is adapted; None: adamw for autowu, adam for "
            "mechanize, else sgd.",
            INNERS,
        ),
    ] = None
    hyper_learning_rate: Annotated[
        float | None,
        option("hd, rtho, marthe: step of the rate; None: 0.05, multiplicative."),
    ] = None
    rule: Annotated[
        str | None,
        option("hd, rtho, marthe: how; None: additive if the step is given.", RULES),
    ] = None
    discount: Annotated[
        float | None, option("marthe: weight of the past, in [0, 1]; None: adaptive.")
    ] = None
    adaptation_rate: Annotated[
        float | None, option("hd, rtho, marthe: how the step adapts; 0: not at all.")
    ] = None
    min_learning_rate: Annotated[
        float | None, option("autowu: rate of the first step; None: 1e-5.")
    ] = None
    max_learning_rate: Annotated[
        float | None, option("autowu: highest rate it may try; None: 1.")
    ] = None
    max_warmup_fraction: Annotated[
        float | None, option("autowu: share of the steps that may warm up; None: 0.5.")
    ] = None
    test_every: Annotated[
        int | None, option("autowu: steps between two tests; None: 1 % of all.")
    ] = None
    immediate_cooldown: Annotated[
        bool | None, option("autowu: decay right after warm-up; None: at the end.")
    ] = None
    validation_fraction: Annotated[
        float | None,
        option("Share of the training data held out; None: 0.1 for rtho, marthe."),
    ] = None

    data_dir: Annotated[
        Path | None,
        option("TFDS directory; None: $TFDS_DATA_DIR or ~/tensorflow_datasets."),
    ] = None
    output_dir: Annotated[
        Path | None,
        option("Directory of the run, new; None: runs/DATASET-MODEL-METHOD-TIME."),
    ] = None
    log_every: Annotated[int, option("Steps between two lines of metrics.")] = 50
    evaluate_every: Annotated[int, option("Epochs between two evaluations.")] = 1
    checkpoint_every: Annotated[int, option("Epochs between two checkpoints.")] = 1
    steps_per_call: Annotated[
        int | None,
        option("Steps in one compiled call; None: 1 on a CPU, else `log_every`."),
    ] = None
    test_examples: Annotated[
        int | None,
        option("Test examples in an evaluation; None: all, of a text at most 2048."),
    ] = None
    sample_tokens: Annotated[
        int, option("Tokens of text to draw at the end, into sample.txt.")
    ] = 0

    def __post_init__(self) -> None:
        for name in ("data_dir", "output_dir"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))

    @property
    def method_settings(self) -> dict[str, Any]:
        """The settings of methods; None where not given."""
        return {name: getattr(self, name) for name in METHOD_SETTINGS}

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
    def chosen_init(self) -> str:
        """The initialisation, the method's own where none is given."""
        return self.init or METHODS[self.method].init

    @property
    def held_out(self) -> float:
        """The share of the training data held out, the method's own if not given."""
        if self.validation_fraction is None:
            return METHODS[self.method].validation_fraction
        return self.validation_fraction

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong without any data."""
        dataset_kind(self.dataset)
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
