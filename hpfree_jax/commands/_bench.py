"""``hpfree bench``: what a training step of each method costs, beside AdamW's."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpfree_jax._errors import UserError, check_positive, look_up
from hpfree_jax._options import Option
from hpfree_jax._table import Table, print_tables
from hpfree_jax.commands import ExitCode
from hpfree_jax.commands._arguments import parse_config
from hpfree_jax.comparison import (
    METHOD_NAMES,
    MethodSpec,
    TaskSpec,
    parse_method,
    parse_model,
    run_config,
)
from hpfree_jax.data import DATASETS, Dataset, TokenDataset
from hpfree_jax.models import MODELS
from hpfree_jax.training.engine import ResidentData, check_kind, make_step, prepare

BASE = "adamw"


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """Times one training step of each method on one network.

    The data is random and of the dataset's shape, so that nothing is read. The methods
    take turns in one process, AdamW always among them; times are medians over the
    rounds, ratios medians of each round's ratio to AdamW. Operations are those of the
    compiled step.
    """

    methods: Annotated[tuple[str, ...], Option("Methods.", METHOD_NAMES)] = (
        "auto",
        "agd",
    )
    model: Annotated[str, Option("Model, as fcn:depth=8.", MODELS)] = "fcn"
    dataset: Annotated[
        str | None,
        Option(
            "Dataset whose shapes are used.",
            DATASETS,
            unset="mnist; tiny_shakespeare for a gpt",
        ),
    ] = None
    batch_size: Annotated[int, Option("Examples per step.")] = 128
    rounds: Annotated[int, Option("Times that each method has its turn.")] = 30


class Cost(NamedTuple):
    """What a training step of a method costs."""

    label: str
    seconds: Sequence[float]  # of a step, by rounds
    flops: float  # of the compiled step; NaN if the compiler does not tell
    state_bytes: int  # of the optimizer's state

    def time_ratio(self, base: "Cost") -> float:
        """The median over the rounds of the time over another method's."""
        pairs = zip(self.seconds, base.seconds, strict=True)
        return statistics.median(own / other for own, other in pairs)


def run_bench(args: list[str]) -> int:
    """Prints a table of costs as the arguments say; returns the exit code.

    Raises:
      UserError: for everything that the user can mend.
    """
    config = parse_config("bench", args, BenchConfig)
    print_tables([bench(config)])
    return ExitCode.DONE


def bench(config: BenchConfig) -> Table:
    """Times the methods; see :class:`BenchConfig`.

    Raises:
      UserError: if an option is impossible.
    """
    check_positive(config, "batch_size", "rounds")
    model, settings = parse_model(config.model)
    tokens = MODELS[model].takes_tokens
    name = config.dataset or ("tiny_shakespeare" if tokens else "mnist")
    look_up("dataset", name, DATASETS)
    check_kind(model, name)
    task = TaskSpec(
        config.model,
        name,
        model,
        settings,
        config.batch_size,
        config.rounds,
        "cross_entropy",
    )
    methods = {m.label: m for m in map(parse_method, (BASE, *config.methods))}
    costs = measure(task, list(methods.values()), config.rounds)
    base = costs[0]
    rows = [
        (
            cost.label,
            f"{1e3 * statistics.median(cost.seconds):.3g}",
            f"{cost.time_ratio(base):.2f}",
            f"{cost.flops / base.flops:.2f}",
            f"{cost.state_bytes / 2**20:.3g}",
        )
        for cost in costs
    ]
    device = jax.devices()[0].device_kind
    title = (
        f"a step of {config.model} on {name}, batch {config.batch_size}, "
        f"{config.rounds} rounds, {device}"
    )
    headings = (
        *("method", "ms", f"time / {BASE}", f"operations / {BASE}"),
        "optimizer state, MiB",
    )
    return Table(title, headings, rows)


def measure(task: TaskSpec, methods: Sequence[MethodSpec], rounds: int) -> list[Cost]:
    """Times a step of each method on random data; all take their turn in each round.

    Raises:
      UserError: if a method trains on held-out data too.
    """
    compiled = [_compile(task, method) for method in methods]
    seconds: list[list[float]] = [[] for _ in methods]
    for _ in range(rounds):
        for (step, _, _), own in zip(compiled, seconds, strict=True):
            begin = time.perf_counter()
            step()
            own.append(time.perf_counter() - begin)
    return [
        Cost(method.label, own, flops, state_bytes)
        for method, own, (_, flops, state_bytes) in zip(
            methods, seconds, compiled, strict=True
        )
    ]


def _compile(
    task: TaskSpec, method: MethodSpec
) -> tuple[Callable[[], None], float, int]:
    """What makes a step and waits for it, its operations, and bytes of state."""
    dataset = _random_data(task)
    config = run_config(task, method, 0)
    if config.held_out:
        raise UserError(
            f"method {method.method} trains on held-out data too, which hpfree bench "
            "does not time; see benchmarks/hypergradient_time.py"
        )
    # The horizon is that of a training: no schedule may end within the rounds.
    parts, state = prepare(config, dataset, total_steps=10**6)
    step: Any = make_step(parts)
    examples = jax.device_put(dataset.train_arrays)
    order = dataset.epoch_order(jax.random.key(0))[: parts.batch_size]
    order = jnp.resize(order, (dataset.num_train,))
    data = ResidentData(examples, order)
    compiled = step.lower(state, data, 1).compile()
    analysis = compiled.cost_analysis() or {}
    carry = [state]
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))

    def run():
        carry[0], metrics = step(carry[0], data, 1)
        jax.block_until_ready((carry[0], metrics))

    run()  # compiles what the calls use, and fills caches
    return run, analysis.get("flops", np.nan), state_bytes


def _random_data(task: TaskSpec) -> Dataset | TokenDataset:
    """Data of the dataset's shape, enough for two batches."""
    row = DATASETS[task.dataset]
    generator = np.random.default_rng(0)
    size = 2 * task.batch_size
    if MODELS[task.model].takes_tokens:
        context = task.model_settings.get("context")
        context = context or MODELS[task.model].defaults["context"]
        classes = row.num_classes or MODELS[task.model].num_classes
        tokens = generator.integers(classes, size=size * context + 1)
        tokens = tokens.astype(np.uint16)
        return TokenDataset(task.dataset, tokens, tokens, classes, context)
    images = generator.integers(256, size=(size, *row.input_shape), dtype=np.uint8)
    labels = generator.integers(row.num_classes, size=size).astype(np.int32)
    channels = row.input_shape[-1]
    mean, std = np.full(channels, 127.5, "f"), np.full(channels, 74.0, "f")
    return Dataset(
        *(task.dataset, images, labels, images, labels, row.num_classes, mean, std)
    )
