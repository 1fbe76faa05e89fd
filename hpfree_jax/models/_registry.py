"""The table of models: what the command line can build, and with which settings."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from hpfree_jax._user_input import UserError, choose_settings, look_up
from hpfree_jax.models._dag_networks import DagCNN, DagMLP
from hpfree_jax.models._fcn import FCN
from hpfree_jax.models._lenet import SIZE, LeNet5
from hpfree_jax.models._tiny_network import TinyNetwork, check_image
from hpfree_jax.models._vgg import STAGES, VGG


class Model(NamedTuple):
    """One row of the table.

    ``build(input_shape, num_classes, *, rngs, **settings)`` returns the module. It may
    get ``kernel_init`` besides its own settings, and raises ``ValueError`` where the
    shape of one example, without the batch axis, does not suit it.
    """

    build: Callable[..., nnx.Module]
    settings: Mapping[str, Any]  # what can be chosen, and the defaults
    reference: str  # one line for the help text


def _build_fcn(input_shape, num_classes, **settings):
    return FCN(math.prod(input_shape), num_classes=num_classes, **settings)


def _build_lenet5(input_shape, num_classes, **settings):
    if len(input_shape) != 3 or max(input_shape[:2]) > SIZE:
        raise ValueError(
            f"LeNet-5 takes images of at most {SIZE} x {SIZE} pixels, and the data has "
            f"the shape {input_shape}."
        )
    return LeNet5(num_classes, input_shape[-1], **settings)


def _build_dag_mlp(input_shape, num_classes, **settings):
    return DagMLP(math.prod(input_shape), num_classes=num_classes, **settings)


def _build_dag_cnn(input_shape, num_classes, **settings):
    if len(input_shape) != 3:
        raise ValueError(
            f"it takes images (height, width, channels), not the shape {input_shape}."
        )
    return DagCNN(input_shape[-1], num_classes=num_classes, **settings)


def _build_tiny_network(input_shape, num_classes, **settings):
    check_image(input_shape)
    return TinyNetwork(input_shape[-1], num_classes=num_classes, **settings)


def _build_vgg(depth, input_shape, num_classes, **settings):
    if len(input_shape) != 3:
        raise ValueError(
            f"it takes images (height, width, channels), not shape {input_shape}."
        )
    return VGG(depth, num_classes, input_shape[-1], **settings)


_DAG = {"dag": "2_02_002", "bias": True, "pre_activation": False}

MODELS: dict[str, Model] = {
    "fcn": Model(
        _build_fcn,
        {"depth": 4, "width": 256, "bias": False},
        "fully connected, arXiv 2304.05187",
    ),
    "lenet5": Model(
        _build_lenet5,
        {"bias": True},
        "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition",
    ),
    "dag_mlp": Model(
        _build_dag_mlp, {**_DAG, "width": 256}, "dense DAG, arXiv 2402.17440"
    ),
    "dag_cnn": Model(
        _build_dag_cnn,
        {**_DAG, "channels": 64, "kernel_size": 3},
        "convolutional DAG, arXiv 2402.17440",
    ),
    "tiny_network": Model(
        _build_tiny_network,
        {"cell": "3_33_133", "channels": 16, "cells": 5, "bias": True, "affine": True},
        "NAS-Bench-201, arXiv 2001.00326",
    ),
    **{
        f"vgg{depth}": Model(
            functools.partial(_build_vgg, depth),
            {"channels": 64, "bias": True, "affine": True},
            "form for CIFAR, arXiv 1409.1556",
        )
        for depth in STAGES
    },
}


def build_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    settings: Mapping[str, Any] | None = None,
    *,
    rngs: nnx.Rngs,
    **init_settings: Any,
) -> nnx.Module:
    """Builds a model of the table.

    Args:
      name: a key of :data:`MODELS`.
      input_shape: shape of one example, without the batch axis.
      num_classes: outputs.
      settings: the model's own settings, such as ``depth``; None values are defaults.
      rngs: source of the initial weights.
      **init_settings: ``kernel_init``, ``dtype`` and ``param_dtype``, for any model.

    Raises:
      UserError: if there is no such model, if it does not take a setting, or if the
        sizes do not suit it.

    >>> model = build_model("fcn", (8, 8, 1), 10, {"depth": 2}, rngs=nnx.Rngs(0))
    >>> len(model.layers)
    2
    """
    model = look_up("model", name, MODELS)
    chosen = choose_settings(f"model {name}", settings or {}, model.settings)
    try:
        return model.build(
            input_shape, num_classes, rngs=rngs, **chosen, **init_settings
        )
    except ValueError as error:
        raise UserError(f"model {name}: {error}") from error
