"""The options that choose data and model, shared by the commands."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

import hpfree_jax as hp
from hpfree_jax._user_input import UserError, look_up
from hpfree_jax.data import DATASETS
from hpfree_jax.models import MODELS

MODEL_SETTINGS = (
    *("depth", "width", "bias", "dag", "pre_activation", "channels", "kernel_size"),
    *("cell", "cells", "affine"),
)


def option(help: str, names: Any = ()) -> Any:
    """Help for an option, and the words it takes."""
    choices = f" One of: {', '.join(names)}." if names else ""
    return tyro.conf.arg(help=help + choices)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Data and model. None stands for not given."""

    dataset: Annotated[str, option("Data, or its shape.", DATASETS)] = "digits"
    model: Annotated[str, option("Network.", MODELS)] = "fcn"

    depth: Annotated[int | None, option("fcn: number of weight matrices.")] = None
    width: Annotated[int | None, option("fcn, dag_mlp: units of a layer.")] = None
    bias: Annotated[bool | None, option("Biases; None: as the model has it.")] = None
    dag: Annotated[
        str | None, option("dag_mlp, dag_cnn: edges into node 1, 2, ..., as 2_12_022.")
    ] = None
    pre_activation: Annotated[
        bool | None, option("dag_mlp, dag_cnn: nodes sum what precedes activations.")
    ] = None
    channels: Annotated[
        int | None, option("dag_cnn, tiny_network: channels of the (first) layers.")
    ] = None
    kernel_size: Annotated[int | None, option("dag_cnn: size of the kernels.")] = None
    cell: Annotated[
        str | None, option("tiny_network: cell of NAS-Bench-201, as 3_34_131.")
    ] = None
    cells: Annotated[int | None, option("tiny_network: cells in a stage.")] = None
    affine: Annotated[
        bool | None, option("tiny_network: scales and shifts in normalisation.")
    ] = None

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of models; None where not given."""
        return {name: getattr(self, name) for name in MODEL_SETTINGS}

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong without any data."""
        look_up("dataset", self.dataset, DATASETS)
        look_up("model", self.model, MODELS)
        check_positive(self, "depth", "width", "channels", "kernel_size", "cells")


def check_positive(config: Any, *names: str) -> None:
    """Raises UserError for the first setting that is given and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")


def trace_model(
    name: str, model: nnx.Module, input_shape: tuple[int, ...]
) -> hp.Architecture:
    """Traces a model in evaluation mode and leaves it so; nothing is computed."""
    model.eval()
    try:
        return hp.trace_architecture(
            model, jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
        )
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"model {name} cannot be traced: {error}") from error
