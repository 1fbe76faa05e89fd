"""The options that choose a model, shared by the commands, and what data fits it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

import hpfree_jax as hp
from hpfree_jax._errors import UserError, look_up
from hpfree_jax._options import Option
from hpfree_jax._settings import choose
from hpfree_jax.data import dataset_kind
from hpfree_jax.models import MODELS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model. None stands for not given: the model's own default, see MODELS."""

    model: Annotated[str, Option("Model.", MODELS)] = "fcn"

    depth: int | None = None
    width: int | None = None
    bias: bool | None = None
    dag: str | None = None
    pre_activation: bool | None = None
    channels: int | None = None
    kernel_size: int | None = None
    cell: str | None = None
    cells: int | None = None
    affine: bool | None = None
    growth: int | None = None
    heads: int | None = None
    context: int | None = None
    dropout: float | None = None
    drop_path: float | None = None
    final_norm: bool | None = None
    tied: bool | None = None
    remat: bool | None = None
    scan: bool | None = None

    # Settings of models and methods that are no field, such as those that a user
    # registered.
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of models; None where not given."""
        return self._settings(MODEL_SETTINGS, MODELS[self.model].settings)

    def _settings(self, names: Sequence[str], own: Collection[str]) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in names}
        return fields | {k: v for k, v in self.settings.items() if k in own}

    def _owners(self) -> dict[str, Collection[str]]:
        """The settings of what is configured, by what it is, for messages."""
        return {f"model {self.model}": MODELS[self.model].settings}

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong without any data."""
        model = look_up("model", self.model, MODELS)
        choose(f"model {self.model}", self.model_settings, model.settings)
        owners = self._owners()
        for name, value in self.settings.items():
            if not any(name in own for own in owners.values()):
                takes = ", nor to ".join(
                    f"{owner}, which takes {', '.join(own) or 'no settings'}"
                    for owner, own in owners.items()
                )
                raise UserError(
                    f"`{name}` {value} of `settings` does not apply to {takes}; leave "
                    "it out"
                )


MODEL_SETTINGS = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.name not in ("model", "settings")
)


def check_kind(model: str, dataset: str) -> None:
    """Raises UserError if a model of images is given a text, or the reverse."""
    is_text = dataset_kind(dataset) == "tokens"
    if is_text != MODELS[model].takes_tokens:
        holds, takes = ("a text", "images") if is_text else ("images", "tokens")
        fitting = [n for n, row in MODELS.items() if row.takes_tokens == is_text]
        raise UserError(
            f"dataset {dataset} does not fit model {model}: it is {holds}, and the "
            f"model takes {takes}; models for it are {', '.join(fitting)}"
        )


def trace_model(
    name: str, model: nnx.Module, input_shape: tuple[int, ...], batch_size: int = 2
) -> hp.Architecture:
    """Traces a model in evaluation mode and leaves it so; nothing is computed."""
    model.eval()
    dtype = jnp.int32 if MODELS[name].takes_tokens else jnp.float32
    try:
        return hp.trace_architecture(
            model, jax.ShapeDtypeStruct((batch_size, *input_shape), dtype)
        )
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"model {name} cannot be traced: {error}") from error
