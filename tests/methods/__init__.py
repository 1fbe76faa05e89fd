"""The contract table: one row per method, checked by test_all_methods.py."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import hpfree_jax as hp
from tests.problems import make_params


def standard_adam(learning_rate):
    """optax.adam, which fails under strict promotion of dtypes by itself."""
    adam = optax.adam(learning_rate)

    def update(*args, **extra_args):
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(*args, **extra_args)

    return optax.GradientTransformation(adam.init, update)


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      name: shown in test names.
      factory: makes the transformation, from keyword arguments only.
      hyperparams: numeric arguments of the factory, all exact in bfloat16.
      extra_args: what ``update`` needs, from (loss function, parameters).
      is_direction: the sign and the learning rate are still to be applied.
      has_rate: whether there is a learning rate in its state.
      amplification: of rounding errors, relative to elementwise methods. An orthogonal
        factor multiplies those of the gradient by the largest singular value over the
        smallest, and has some of its own; the steps of a rule feed them back.
      num_steps: steps within which the loss of ``problems.quadratic`` falls tenfold.
    """

    name: str
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    hyperparams: Mapping[str, float]
    extra_args: Callable[[Callable, Any], dict[str, Any]] = lambda loss, params: {}
    is_direction: bool = False
    has_rate: bool = True
    amplification: float = 1
    num_steps: int = 100

    def make(self, **kwargs) -> optax.GradientTransformationExtraArgs:
        return self.factory(**{**self.hyperparams, **kwargs})

    def __str__(self) -> str:
        return self.name


def value_fn(loss, params) -> dict[str, Any]:
    """What a Hessian-vector product needs: the loss itself."""
    return {"value_fn": loss}


TWO_LAYERS = hp.Layout(
    {
        "fc1/kernel": hp.Matrix(in_axes=0, out_axes=1, scale_divisor=2),
        "fc1/bias": hp.Vector(leader="fc1/kernel"),
        "fc2/kernel": hp.Matrix(in_axes=0, out_axes=1, depth_count=3),
        "fc2/bias": hp.Vector(leader="fc2/kernel"),
    }
)

MOMENTUM = functools.partial(optax.sgd, momentum=0.5)
HYPERGRADIENTS = [
    Method(
        "hd",
        functools.partial(hp.hd, optax.sgd),
        {"learning_rate": 2.0, "hyper_learning_rate": 2.0**-10},
    ),
    Method(
        "rtho",
        functools.partial(hp.rtho, MOMENTUM),
        {"learning_rate": 0.5, "hyper_learning_rate": 2.0**-12},
        value_fn,
    ),
    Method(
        "marthe",
        functools.partial(hp.marthe, MOMENTUM),
        {
            "learning_rate": 0.5,
            "hyper_learning_rate": 2.0**-12,
            "adaptation_rate": 2.0**-20,
        },
        value_fn,
    ),
    Method(
        "marthe-adam-multiplicative",
        functools.partial(hp.marthe, standard_adam, rule="multiplicative"),
        {
            "learning_rate": 0.0625,
            "hyper_learning_rate": 0.03125,
            "discount": 0.875,
            "adaptation_rate": 0.0,
        },
        value_fn,
    ),
]


def loss_value(loss, params) -> dict[str, Any]:
    """What AutoWU needs: the loss of this step."""
    return {"value": loss(params)}


class ChainState(NamedTuple):
    direction: Any
    schedule: Any


# The warm-up ends within the few steps that most rules take: at call 3, by exhaustion
# (then no test is compiled) or by a test, which a confidence of 1/128 makes positive.
BRACKET = {"min_learning_rate": 0.5, "max_learning_rate": 2.0}


def exhausted(factory, **options):
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return factory(
            total_steps=100, steps_per_epoch=4, max_warmup_fraction=0.03125, **options
        )


def autowu_without_tests(min_learning_rate, max_learning_rate):
    return exhausted(
        hp.scale_by_autowu,
        min_learning_rate=min_learning_rate,
        max_learning_rate=max_learning_rate,
    )


def autowu_after_agd(min_learning_rate, max_learning_rate):
    """An alias that is a chain; its state as one NamedTuple, as the rules want it."""
    tx = exhausted(
        functools.partial(hp.autowu, hp.scale_by_agd()),
        min_learning_rate=min_learning_rate,
        max_learning_rate=max_learning_rate,
    )

    def update(updates, state, params=None, **extra_args):
        updates, state = tx.update(updates, tuple(state), params, **extra_args)
        return updates, ChainState(*state)

    return optax.GradientTransformationExtraArgs(
        lambda params: ChainState(*tx.init(params)), update
    )


AUTOWU = [
    Method("scale_by_autowu-exhausted", autowu_without_tests, BRACKET, loss_value),
    Method("autowu-agd", autowu_after_agd, BRACKET, loss_value),
]

# Compiling the test takes seconds for each rule: tests/warmup/test_contract.py, slow.
AUTOWU_WITH_TESTS = [
    Method(
        "scale_by_autowu-linear-epoch-plateau",
        functools.partial(
            hp.scale_by_autowu,
            total_steps=100,
            steps_per_epoch=1,
            test_every=3,
            patience=1,
            warmup_type="linear",
            warmup_unit="epoch",
            decay_stat="loss",
            cooldown_type="half_cosine",
        ),
        {**BRACKET, "confidence": 2.0**-7, "decay_factor": 0.5},
        loss_value,
    ),
]


def two_layers(params, x):
    hidden = x @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    return hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]


PARAMS = make_params()
AUTO = functools.partial(
    hp.auto, PARAMS, hp.trace_architecture(two_layers, PARAMS, jnp.zeros((4, 8)))
)
STEEPEST = functools.partial(
    hp.scale_by_steepest_descent, TWO_LAYERS, ranks={"fc1/kernel": 3}, nesterov=True
)
AUTO_METHOD = Method("auto", AUTO, {"total_steps": 128}, amplification=200)

# The parts of hp.auto, and what shares them: tests/test_agd_spectral.py, slow.
SPECTRAL_PARTS = [
    Method(
        "agd-spectral-momentum-layout",
        functools.partial(hp.agd, layout=TWO_LAYERS, norm="spectral"),
        {"gain": 2.0, "momentum": 0.75},
        amplification=200,
    ),
    Method(
        "agd-spectral",
        functools.partial(hp.agd, norm="spectral"),
        {"gain": 2.0},
        amplification=200,
    ),
    Method(
        "scale_by_steepest_descent",
        STEEPEST,
        {"momentum": 0.75},
        is_direction=True,
        has_rate=False,
        amplification=200,
    ),
]

METHODS = [
    AUTO_METHOD,
    Method("agd", hp.agd, {"gain": 2.0}),
    Method("agd-momentum", hp.agd, {"gain": 2.0, "momentum": 0.75}),
    Method("agd-layout", functools.partial(hp.agd, layout=TWO_LAYERS), {"gain": 2.0}),
    Method("scale_by_agd", hp.scale_by_agd, {"gain": 2.0}, is_direction=True),
    *HYPERGRADIENTS,
    *AUTOWU,
]
