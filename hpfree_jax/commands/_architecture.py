"""``hpfree architecture``: the graph of a model, printed and drawn."""

import dataclasses
from pathlib import Path
from typing import Annotated

from hpfree_jax._errors import UserError, look_up
from hpfree_jax._options import Option
from hpfree_jax.commands import ExitCode
from hpfree_jax.commands._arguments import (
    flags_of,
    parse_arguments,
    row_flags,
    typed_value,
    with_settings,
)
from hpfree_jax.data import DATASETS
from hpfree_jax.models import MODELS, abstract_model
from hpfree_jax.training.engine import ModelConfig, check_kind, trace_model

SUFFIXES = (".svg", ".png", ".pdf", ".dot")


@dataclasses.dataclass(frozen=True)
class ArchitectureCommand(ModelConfig):
    """Prints the layers of a model and the statistics of its paths.

    Nothing is computed and no data is read: the dataset gives the input's shape only.
    """

    dataset: Annotated[
        str | None,
        Option(
            "Dataset whose shapes are used.",
            DATASETS,
            unset="digits; a gpt's own shape",
        ),
    ] = None
    plot: Annotated[
        Path | None,
        Option("New file for a drawing of the graph, by its suffix.", SUFFIXES),
    ] = None
    subgraph: Annotated[
        str | None, Option("Only the layers under this path, as blocks/0.")
    ] = None

    @property
    def input(self) -> tuple[tuple[int, ...], int]:
        """The shape of an example, and the number of classes."""
        row = MODELS[self.model]
        if row.takes_tokens:
            classes = DATASETS[self.dataset].num_classes if self.dataset else None
            context = self.context or row.defaults["context"]
            return (context,), classes or row.num_classes
        data = DATASETS[self.dataset or "digits"]
        return data.input_shape, data.num_classes

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong at once."""
        if self.dataset is not None:
            look_up("dataset", self.dataset, DATASETS)
        super().check()
        if self.dataset is not None:
            check_kind(self.model, self.dataset)
        if self.plot is None:
            return
        if self.plot.suffix not in SUFFIXES:
            raise UserError(
                f"`plot` {self.plot} must end in one of {', '.join(SUFFIXES)}"
            )
        if self.plot.exists():
            raise UserError(
                f"`plot` {self.plot} exists and nothing is overwritten; choose another "
                "name, or remove it"
            )
        if not self.plot.parent.is_dir():
            raise UserError(
                f"`plot` {self.plot} cannot be written: {self.plot.parent} is no "
                "directory; make it first"
            )


def run_architecture(args: list[str]) -> int:
    """Prints and draws as the arguments say; returns the exit code."""
    config = _parse(args)
    config.check()
    input_shape, num_classes = config.input
    model = abstract_model(
        config.model, input_shape, num_classes, config.model_settings
    )
    arch = trace_model(config.model, model, input_shape)
    if config.subgraph is not None:
        try:
            arch = arch.subgraph(config.subgraph)
        except ValueError as error:
            raise UserError(f"`subgraph`: {error}") from error
    print(arch.summary())
    if config.plot is not None:
        _draw(arch, config.plot)
        print(f"graph: {config.plot}")
    return ExitCode.DONE


def _parse(args: list[str]) -> ArchitectureCommand:
    general = flags_of(ArchitectureCommand)
    model = typed_value(args, general, "model")
    settings = {name: row.settings for name, row in MODELS.items()}
    all_models, own = row_flags(settings, model)
    groups = {
        "model": ["model", *own],
        "graph": [name for name in general if name != "model"],
    }
    description = (
        f"{ArchitectureCommand.__doc__}\n\n    These are the options of model {model}. "
        "Those of another are shown by, for instance:\n\n"
        "    hpfree architecture --model gpt_char --help"
    )
    given = parse_arguments(
        "architecture", args, all_models | general, description, groups
    )
    return ArchitectureCommand(**with_settings(given, ArchitectureCommand))


def _draw(arch, path: Path) -> None:
    try:
        if path.suffix == ".dot":
            path.write_text(arch.to_dot() + "\n")
        else:
            arch.plot().figure.savefig(path, bbox_inches="tight")
    except OSError as error:
        raise UserError(f"`plot` {path} cannot be written ({error})") from error
