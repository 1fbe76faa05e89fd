"""The table of models: what the command line can build, and with which settings."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hpfree_jax._errors import UserError, look_up
from hpfree_jax._settings import Setting, choose, defaults_of, register
from hpfree_jax.models._checks import check_image
from hpfree_jax.models._dag_networks import DagCNN, DagMLP
from hpfree_jax.models._densenet import SMALLEST, DenseNetBC
from hpfree_jax.models._efficientnet import EfficientNetB0
from hpfree_jax.models._fcn import FCN
from hpfree_jax.models._gpt import GPT
from hpfree_jax.models._lenet import SIZE, LeNet5
from hpfree_jax.models._preact_resnet import PreActResNet
from hpfree_jax.models._resnet import ResNet
from hpfree_jax.models._tiny_network import DIVISOR, TinyNetwork
from hpfree_jax.models._vgg import VGG
from hpfree_jax.models._wide_resnet import WideResNet


class Model(NamedTuple):
    """One row of the table.

    ``build(input_shape, num_classes, *, rngs, **settings)`` returns the module. It may
    get ``kernel_init`` besides its own settings, and raises ``ValueError`` where the
    shape of one example, without the batch axis, does not suit it.
    """

    build: Callable[..., nnx.Module]
    settings: Mapping[str, Any]  # each a Setting, or its default alone
    reference: str  # one line for the listing
    parameters: int = 0  # with the defaults, for the examples and classes below
    input_shape: tuple[int, ...] = (32, 32, 3)  # of one example in the source
    num_classes: int = 10
    takes_tokens: bool = False  # (time,) integers, not images; classes: the vocabulary

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings of a model that is given none."""
        return defaults_of(self.settings)

    def example(self, batch_size: int = 2) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch of the source's examples."""
        dtype = jnp.int32 if self.takes_tokens else jnp.float32
        return jax.ShapeDtypeStruct((batch_size, *self.input_shape), dtype)


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
    check_image(input_shape)
    return DagCNN(input_shape[-1], num_classes=num_classes, **settings)


def _build_tiny_network(input_shape, num_classes, **settings):
    check_image(input_shape, multiple_of=DIVISOR)
    return TinyNetwork(input_shape[-1], num_classes=num_classes, **settings)


def _image_builder(model, smallest=1, **fixed):
    """Of models that take the number of channels, and images of any larger size."""

    def build(input_shape, num_classes, **settings):
        check_image(input_shape, smallest)
        sizes = {"num_classes": num_classes, "in_channels": input_shape[-1]}
        return model(**sizes, **fixed, **settings)

    return build


def _build_gpt(input_shape, num_classes, **settings):
    if len(input_shape) != 1 or input_shape[0] > settings["context"]:
        raise ValueError(
            f"it takes at most `context` = {settings['context']} tokens (time,), not "
            f"the shape {tuple(input_shape)}."
        )
    return GPT(num_classes, **settings)


def _size(default: int, help: str) -> Setting:
    return Setting(default, help, minimum=1)


def _bias(default: bool = True) -> Setting:
    return Setting(default, "Add biases.")


_AFFINE = Setting(True, "Scale and shift after normalisation.")
_REMAT = Setting(False, "Rematerialise blocks in the backward pass, to save memory.")
_SWITCHES = {"bias": _bias(), "affine": _AFFINE, "remat": _REMAT}
_DAG = {
    "dag": Setting("2_02_002", "Edges into nodes 1, 2, ...: 0 none, 1 skip, 2 layer."),
    "bias": _bias(),
    "pre_activation": Setting(False, "Sum before the activation of a node, not after."),
}
_CHANNELS = {"channels": _size(64, "Channels of the first layers.")}
_IMAGENET: dict[str, Any] = {"input_shape": (224, 224, 3), "num_classes": 1000}


def _gpt(
    source, parameters, context, vocabulary, depth, width, heads, bias=True, dropout=0.0
):
    """A row for a size of GPT."""
    settings = {
        "depth": _size(depth, "Transformer blocks."),
        "width": _size(width, "Embedding width, a multiple of the heads."),
        "heads": _size(heads, "Attention heads."),
        "context": _size(context, "Context length, in tokens."),
        "dropout": Setting(dropout, "Dropout rate."),
        **_SWITCHES,
        "bias": _bias(bias),
        "tied": Setting(True, "Tie the output layer to the token embedding."),
        "scan": Setting(False, "Scan over the blocks, which are compiled once."),
    }
    return Model(
        _build_gpt,
        settings,
        source,
        parameters,
        (context,),
        vocabulary,
        takes_tokens=True,
    )


def _gpt2(parameters, depth, width, heads):
    source = "GPT-2, Radford et al. 2019"
    return _gpt(source, parameters, 1024, 50257, depth, width, heads)


MODELS: dict[str, Model] = {
    "fcn": Model(
        _build_fcn,
        {
            "depth": _size(4, "Weight matrices."),
            "width": _size(256, "Units of a hidden layer."),
            "bias": _bias(False),
        },
        "fully connected, arXiv 2304.05187",
        920_064,
    ),
    "lenet5": Model(
        _build_lenet5,
        {"bias": _bias()},
        "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition",
        61_706,
        (28, 28, 1),
    ),
    "dag_mlp": Model(
        _build_dag_mlp,
        {**_DAG, "width": _size(256, "Units of a node.")},
        "dense DAG, arXiv 2402.17440",
        986_634,
    ),
    "dag_cnn": Model(
        _build_dag_cnn,
        {
            **_DAG,
            "channels": _size(64, "Channels of a node."),
            "kernel_size": _size(3, "Height and width of the kernels."),
        },
        "convolutional DAG, arXiv 2402.17440",
        113_226,
    ),
    "tiny_network": Model(
        _build_tiny_network,
        {
            "cell": Setting(
                "3_33_133", "Operations of the cell, 0 to 4 for each edge."
            ),
            "channels": _size(16, "Channels of the first stage."),
            "cells": _size(5, "Cells in a stage."),
            "bias": _bias(),
            "affine": _AFFINE,
        },
        "NAS-Bench-201, arXiv 2001.00326",
        1_288_506,
    ),
    **{
        f"vgg{depth}": Model(
            _image_builder(VGG, depth=depth),
            {**_CHANNELS, "bias": _bias(), "affine": _AFFINE},
            "VGG for small images, arXiv 1409.1556",
            parameters,
        )
        for depth, parameters in {
            11: 9_231_114,
            13: 9_416_010,
            16: 14_728_266,
            19: 20_040_522,
        }.items()
    },
    **{
        f"resnet{depth}": Model(
            _image_builder(ResNet, depth=depth),
            {**_CHANNELS, **_SWITCHES},
            "ResNet v1.5, arXiv 1512.03385",
            parameters,
            **_IMAGENET,
        )
        for depth, parameters in {
            18: 11_689_512,
            34: 21_797_672,
            50: 25_557_032,
            101: 44_549_160,
            152: 60_192_808,
        }.items()
    },
    **{
        f"resnet{depth}_cifar": Model(
            _image_builder(ResNet, depth=depth, small_images=True),
            {**_CHANNELS, **_SWITCHES},
            "ResNet for small images, arXiv 1512.03385",
            parameters,
        )
        for depth, parameters in {18: 11_173_962, 50: 23_520_842}.items()
    },
    **{
        f"preact_resnet{depth}": Model(
            _image_builder(PreActResNet, depth=depth),
            {
                **_CHANNELS,
                **_SWITCHES,
                "final_norm": Setting(False, "Normalise after the last block."),
            },
            "pre-activated ResNet for small images, arXiv 1603.05027",
            parameters,
        )
        for depth, parameters in {18: 11_171_146, 50: 23_509_066}.items()
    },
    "wide_resnet": Model(
        _image_builder(WideResNet),
        {
            "depth": _size(28, "Layers, a multiple of 6 plus 4."),
            "width": _size(10, "Widening factor."),
            "dropout": Setting(0.0, "Dropout rate within a block."),
            **_SWITCHES,
        },
        "WRN-28-10, arXiv 1605.07146",
        36_479_194,
    ),
    "densenet_bc": Model(
        _image_builder(DenseNetBC, SMALLEST),
        {
            "depth": _size(100, "Layers, a multiple of 6 plus 4."),
            "growth": _size(12, "Growth rate: channels that a layer appends."),
            **_SWITCHES,
        },
        "DenseNet-BC-100-12, arXiv 1608.06993",
        769_162,
    ),
    "efficientnet_b0": Model(
        _image_builder(EfficientNetB0),
        {
            "dropout": Setting(0.2, "Dropout rate before the classifier."),
            "drop_path": Setting(0.2, "Stochastic-depth rate of the last block."),
            "remat": _REMAT,
        },
        "EfficientNet-B0, arXiv 1905.11946",
        5_288_548,
        **_IMAGENET,
    ),
    "gpt_char": _gpt(
        "nanoGPT's character-level model",
        10_745_088,
        context=256,
        vocabulary=65,
        depth=6,
        width=384,
        heads=6,
        dropout=0.2,
        bias=False,
    ),
    "gpt2": _gpt2(124_439_808, 12, 768, 12),
    "gpt2_medium": _gpt2(354_823_168, 24, 1024, 16),
    "gpt2_large": _gpt2(774_030_080, 36, 1280, 20),
    "gpt2_xl": _gpt2(1_557_611_200, 48, 1600, 25),
}


def register_model(name: str, model: Model) -> None:
    """Adds a model of your own to :data:`MODELS`.

    From then on :func:`build_model`, training, comparisons and the command line's
    listings find it by its name.

    Raises:
      UserError: if the name is taken or no word, or the model is no row of the table.

    >>> def build(input_shape, num_classes, *, rngs, width=8, **init_settings):
    ...     return FCN(math.prod(input_shape), 2, width, num_classes, rngs=rngs)
    >>> register_model("mine", Model(build, {"width": 8}, "a network of my own"))
    >>> abstract_model("mine", (4, 4, 1), 2).layers[0].kernel.shape
    (16, 8)
    >>> del MODELS["mine"]
    """
    register("model", MODELS, name, model, Model)


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
    chosen = choose(f"model {name}", settings or {}, model.settings)
    try:
        return model.build(
            input_shape, num_classes, rngs=rngs, **chosen, **init_settings
        )
    except ValueError as error:
        raise UserError(f"model {name}: {error}") from error


def abstract_model(
    name: str,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> nnx.Module:
    """Builds a model of the table with shapes in place of arrays, in evaluation mode.

    Nothing is computed, and no memory is taken. Enough for
    :func:`hpfree_jax.trace_architecture`, and to count parameters.

    Args:
      name: a key of :data:`MODELS`.
      input_shape: shape of one example; None is that of the source.
      num_classes: outputs; None is as in the source.
      settings: the model's own settings; None values are defaults.

    Raises:
      UserError: as :func:`build_model`.

    >>> model = abstract_model("resnet18", settings={"channels": 128})
    >>> model.classifier.kernel.shape
    (1024, 1000)
    """
    row = look_up("model", name, MODELS)

    def build():
        return build_model(
            name,
            input_shape or row.input_shape,
            num_classes or row.num_classes,
            settings,
            rngs=_light_rngs(),
        )

    model = nnx.eval_shape(build)
    model.eval()
    return model


def _light_rngs() -> nnx.Rngs:
    """Random numbers that keep the cost of abstract building linear in the layers.

    A counter is overwritten with each key that is drawn. If the dtype stays, Flax asks
    for the sharding, and JAX lists all equations so far in the error that it raises for
    a tracer. The counts are never computed, so that a narrower dtype does no harm.
    """
    rngs = nnx.Rngs(0)
    for _, node in nnx.iter_graph(rngs):
        if isinstance(node, nnx.RngCount):
            node.set_metadata(on_set_value=lambda _, value: value.astype(jnp.uint16))
    return rngs
