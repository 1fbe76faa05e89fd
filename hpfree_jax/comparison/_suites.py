"""Named sets of tasks, on which every method has one setting."""

from collections.abc import Mapping
from typing import Any

from hpfree_jax.comparison._specs import TaskSpec


def _task(
    name: str,
    dataset: str,
    model: str,
    batch_size: int,
    steps: int,
    evaluations: int = 5,
    **settings: Any,
) -> TaskSpec:
    every = steps // evaluations
    loss = "cross_entropy"
    return TaskSpec(name, dataset, model, settings, batch_size, steps, loss, every)


# Depths from 1 to 16, batches from 16 to 4096, and all kinds of layers. Where a test
# takes long, it is made at the end only.
NO_TUNING = (
    _task("logistic_mnist", "mnist", "fcn", 128, 600, depth=1),
    _task("fcn8_mnist", "mnist", "fcn", 128, 600, depth=8),
    _task("fcn16_mnist", "mnist", "fcn", 128, 600, depth=16, width=128),
    _task("fcn4_cifar10", "cifar10", "fcn", 128, 600),
    _task("lenet5_mnist", "mnist", "lenet5", 64, 400, 1),
    _task("cnn_cifar10", "cifar10", "dag_cnn", 32, 300, 1, dag="2_02", channels=16),
    _task("resnet_cifar10", "cifar10", "wide_resnet", 32, 200, 1, depth=10, width=1),
    _task("dag_mnist", "mnist", "dag_mlp", 128, 600, dag="2_12_022"),
    _task(
        *("gpt_shakespeare", "tiny_shakespeare", "gpt_char", 16, 500, 1),
        **{"depth": 2, "width": 64, "heads": 4, "context": 64, "dropout": 0.0},
    ),
    _task("large_batch_mnist", "mnist", "fcn", 4096, 150, width=128),
)

SUITES: Mapping[str, tuple[TaskSpec, ...]] = {"no-tuning": NO_TUNING}
