"""The options of ``hpfree compare``."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from hpfree_jax._errors import UserError, check_positive, choose_settings, look_up
from hpfree_jax._options import Option
from hpfree_jax.comparison._plan import Plan
from hpfree_jax.comparison._specs import (
    METHOD_NAMES,
    MethodSpec,
    TaskSpec,
    parse_method,
    parse_model,
    run_config,
    slug,
)
from hpfree_jax.comparison._suites import SUITES
from hpfree_jax.data import DATASETS, dataset_kind
from hpfree_jax.models import MODELS
from hpfree_jax.training import LOSSES
from hpfree_jax.training.engine import INITS, Init, LossName, check_kind

Parallel = Literal["auto", "always", "never"]
GridChoice = Literal["train", "validation"]
TableFormat = Literal["csv", "parquet"]
# The options that make tasks, with what None stands for.
TASK_OPTIONS = {
    "models": ("fcn",),
    "datasets": ("digits",),
    "steps": 500,
    "batch_size": 64,
    "loss": "cross_entropy",
}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Compares training methods from the same weights and batches, over several seeds.

    Every method trains every model on every dataset, or the tasks of a suite. Methods
    and models take settings, as adam:learning_rate=0.003,schedule=cosine or
    fcn:depth=8. A comparison that was stopped continues by the same command with its
    --output-dir.
    """

    methods: Annotated[tuple[str, ...], Option("Methods.", METHOD_NAMES)] = (
        *("agd", "adam", "prodigy"),
    )
    suite: Annotated[
        str | None,
        Option("A named set of tasks, in place of --models to --loss.", SUITES),
    ] = None
    models: Annotated[
        tuple[str, ...] | None, Option("Models.", MODELS, unset="fcn")
    ] = None
    datasets: Annotated[
        tuple[str, ...] | None,
        Option("Datasets, or folders of token files.", DATASETS, unset="digits"),
    ] = None
    steps: Annotated[int | None, Option("Steps per run.", unset="500")] = None
    batch_size: Annotated[int | None, Option("Examples per step.", unset="64")] = None
    loss: Annotated[
        LossName | None, Option("Loss function.", unset="cross_entropy")
    ] = None

    seeds: Annotated[int, Option("Number of seeds: 0, 1, ...")] = 3
    init: Annotated[
        Init | None, Option("Initialisation scheme.", unset="each method's own")
    ] = None
    validation_fraction: Annotated[
        float | None,
        Option(
            "Fraction of the training data held out.", unset="what each method needs"
        ),
    ] = None

    grid: Annotated[
        tuple[str, ...], Option("Methods tuned over --grid-rates on each task.")
    ] = ()
    grid_rates: Annotated[tuple[float, ...], Option("Learning rates of --grid.")] = (
        *(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    )
    grid_choice: Annotated[
        GridChoice,
        Option("Final loss that chooses the learning rate: training or validation."),
    ] = "train"
    target: Annotated[
        float | None,
        Option(
            "Training loss to reach.",
            unset="the final loss of Adam, or of the median method",
        ),
    ] = None

    parallel: Annotated[
        Parallel, Option("Train the seeds at once, by vmap; auto: where faster.")
    ] = "auto"
    log_every: Annotated[
        int | None,
        Option("Steps between two lines of metrics.", unset="50 lines per run"),
    ] = None
    evaluate_every: Annotated[
        int | None, Option("Steps between two evaluations.", unset="every fifth line")
    ] = None
    table: Annotated[TableFormat, Option("File format of the table.")] = "csv"
    data_dir: Annotated[
        Path | None,
        Option("TFDS directory.", unset="$TFDS_DATA_DIR or ~/tensorflow_datasets"),
    ] = None
    output_dir: Annotated[
        Path | None,
        Option(
            "Directory of the comparison, new or to continue.",
            unset="runs/compare-TIME",
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in ("data_dir", "output_dir"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))

    def plan(self, tasks: Sequence[TaskSpec] | None = None) -> Plan:
        """All runs, as far as the options tell without any data.

        Args:
          tasks: in place of those of the options.

        Raises:
          UserError: if an option is impossible.
        """
        self._check()
        methods = [parse_method(text) for text in self.methods]
        methods += [parse_method(text, self.grid_rates) for text in self.grid]
        if not methods:
            raise UserError("no method is named; give some to --methods or --grid")
        plan = Plan(
            tuple(self._tasks() if tasks is None else tasks),
            tuple({method.label: self._method(method) for method in methods}.values()),
            self.seeds,
            self.log_every,
            self.evaluate_every,
        )
        self._check_choice(plan)
        if not plan.tasks:
            raise UserError("there are no tasks to compare methods on; give some")
        if len({slug(task.name) for task in plan.tasks}) < len(plan.tasks):
            names = ", ".join(task.name for task in plan.tasks)
            raise UserError(f"tasks must have different names, got {names}")
        for task in plan.tasks:
            intervals = plan.intervals(task)
            if intervals.evaluate_every % intervals.log_every:
                raise UserError(
                    f"`evaluate_every` {intervals.evaluate_every} must be a multiple "
                    f"of `log_every`, which is {intervals.log_every} for {task.name}"
                )
        return plan

    def _check_choice(self, plan: Plan) -> None:
        if self.grid_choice != "validation":
            return
        if self.suite is not None:
            raise UserError(
                f"`grid_choice` validation does not go with `suite` {self.suite}, "
                "whose leaderboard chooses rates by the test score; leave it out"
            )
        for task, method in itertools.product(plan.tasks, plan.methods):
            if method.grid and not run_config(task, method, 0).held_out:
                raise UserError(
                    f"`grid_choice` validation: nothing is held out for {method.label} "
                    "to be validated with; give a `validation_fraction`, such as 0.1"
                )

    def _method(self, method: MethodSpec) -> MethodSpec:
        return dataclasses.replace(
            method, init=self.init, validation_fraction=self.validation_fraction
        )

    def _tasks(self) -> Iterator[TaskSpec]:
        if self.suite is not None:
            yield from look_up("suite", self.suite, SUITES)
            return
        given = {name: getattr(self, name) for name in TASK_OPTIONS}
        chosen = choose_settings("a comparison", given, TASK_OPTIONS)
        sizes = [chosen[name] for name in ("batch_size", "steps", "loss")]
        for dataset, text in itertools.product(
            dict.fromkeys(chosen["datasets"]), dict.fromkeys(chosen["models"])
        ):
            model, settings = parse_model(text)
            check_kind(model, dataset)
            if chosen["loss"] == "square" and dataset_kind(dataset) == "tokens":
                raise UserError(
                    f"`loss` square does not apply to dataset {dataset}, which is a "
                    "text; take cross_entropy, or leave it out"
                )
            yield TaskSpec(f"{dataset}/{text}", dataset, model, settings, *sizes)

    def _check(self) -> None:
        if self.suite is not None:
            for name in TASK_OPTIONS:
                if getattr(self, name) is not None:
                    raise UserError(
                        f"`{name}` does not go with `suite` {self.suite}, which has "
                        "its own tasks; leave one of the two out"
                    )
        if self.loss is not None:
            look_up("loss", self.loss, LOSSES)
        look_up("grid_choice", self.grid_choice, dict.fromkeys(get_args(GridChoice)))
        look_up("parallel", self.parallel, dict.fromkeys(get_args(Parallel)))
        look_up("table", self.table, dict.fromkeys(get_args(TableFormat)))
        if self.init is not None:
            look_up("init", self.init, dict.fromkeys(INITS))
        check_positive(
            self, "seeds", "steps", "batch_size", "log_every", "evaluate_every"
        )
        if not 0 <= (self.validation_fraction or 0) < 1:
            raise UserError(
                "`validation_fraction` must lie in [0, 1), got "
                f"{self.validation_fraction}"
            )
        for name in ("models", "datasets", "grid_rates"):
            if getattr(self, name) == ():
                raise UserError(f"`{name}` is empty; give at least one")
        for rate in self.grid_rates:
            if not 0 < rate < math.inf:
                raise UserError(f"`grid_rates` must be above 0, got {rate}")
        if len(set(self.grid_rates)) < len(self.grid_rates):
            raise UserError("`grid_rates` holds a rate twice; give each once")
        if self.target is not None and not math.isfinite(self.target):
            raise UserError(f"`target` must be a finite loss, got {self.target}")
