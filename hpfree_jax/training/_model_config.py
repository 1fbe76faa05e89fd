"""The options that choose a model, shared by the commands, and what data fits it."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

import hpfree_jax as hp
from hpfree_jax._errors import UserError, choose_settings, look_up
from hpfree_jax.data import dataset_kind as dataset_kind
from hpfree_jax.models import MODELS

MODEL_SETTINGS = (
    *("depth", "width", "bias", "dag", "pre_activation", "channels", "kernel_size"),
    *("cell", "cells", "affine", "growth", "heads", "context", "dropout"),
    *("drop_path", "final_norm", "tied", "remat", "scan"),
)


def option(help: str, names: Any = ()) -> Any:
    """Help for an option, and the words it takes."""
    choices = f" One of: {', '.join(names)}." if names else ""
    return tyro.conf.arg(help=help + choices)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model. None stands for not given."""

    model: Annotated[str, option("Network.", MODELS)] = "fcn"

    depth: Annotated[
        int | None, option("Weight matrices of fcn, layers, blocks of a gpt.")
    ] = None
    width: Annotated[
        int | None, option("Units of a layer; wide_resnet: widening factor.")
    ] = None
    bias: Annotated[bool | None, option("Biases; None: as the model has it.")] = None
    dag: Annotated[
        str | None, option("dag_mlp, dag_cnn: edges into node 1, 2, ..., as 2_12_022.")
    ] = None
    pre_activation: Annotated[
        bool | None, option("dag_mlp, dag_cnn: nodes sum what precedes activations.")
    ] = None
    channels: Annotated[
        int | None, option("Convolutional networks: channels of the first layers.")
    ] = None
    kernel_size: Annotated[int | None, option("dag_cnn: size of the kernels.")] = None
    cell: Annotated[
        str | None, option("tiny_network: cell of NAS-Bench-201, as 3_34_131.")
    ] = None
    cells: Annotated[int | None, option("tiny_network: cells in a stage.")] = None
    affine: Annotated[bool | None, option("Scales and shifts in normalisation.")] = None
    growth: Annotated[int | None, option("densenet_bc: channels of a layer.")] = None
    heads: Annotated[int | None, option("gpt: heads of the attention.")] = None
    context: Annotated[int | None, option("gpt: tokens in an example.")] = None
    dropout: Annotated[
        float | None, option("Share of numbers set to zero in training.")
    ] = None
    drop_path: Annotated[
        float | None, option("efficientnet_b0: share of branches left out.")
    ] = None
    final_norm: Annotated[
        bool | None, option("preact_resnet: normalisation after the last block.")
    ] = None
    tied: Annotated[bool | None, option("gpt: the readout is the table of tokens.")] = (
        None
    )
    remat: Annotated[
        bool | None, option("Compute blocks again backwards, to save memory.")
    ] = None
    scan: Annotated[bool | None, option("gpt: blocks as one loop, compiled once.")] = (
        None
    )

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of models; None where not given."""
        return {name: getattr(self, name) for name in MODEL_SETTINGS}

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong without any data."""
        model = look_up("model", self.model, MODELS)
        check_positive(
            self,
            *("depth", "width", "channels", "kernel_size", "cells", "growth"),
            *("heads", "context"),
        )
        choose_settings(f"model {self.model}", self.model_settings, model.defaults)


def check_positive(config: Any, *names: str) -> None:
    """Raises UserError for the first setting that is given and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")


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
