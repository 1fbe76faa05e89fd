"""``hpfree architecture``: the graph of a model, printed and drawn."""

import dataclasses
from pathlib import Path
from typing import Annotated

from flax import nnx

from hpfree_jax._user_input import UserError
from hpfree_jax.data import DATASETS
from hpfree_jax.models import build_model
from hpfree_jax.training._arguments import parse_arguments
from hpfree_jax.training._model_config import ModelConfig, option, trace_model

PROGRAM = "hpfree architecture"
SUFFIXES = (".svg", ".png", ".pdf", ".dot")


@dataclasses.dataclass(frozen=True)
class ArchitectureCommand(ModelConfig):
    """Prints the layers of a model and the statistics of its paths.

    Nothing is computed and no data is read: the data set only gives the input's shape.
    """

    plot: Annotated[
        Path | None, option("New file for a drawing of the graph.", SUFFIXES)
    ] = None
    subgraph: Annotated[
        str | None, option("Only the layers whose path begins so, as blocks/0.")
    ] = None

    def check(self) -> None:
        """Raises UserError for what can be seen to be wrong at once."""
        super().check()
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
    config = parse_arguments(args, ArchitectureCommand(), PROGRAM)
    config.check()
    data = DATASETS[config.dataset]
    model = nnx.eval_shape(
        lambda: build_model(
            config.model,
            data.input_shape,
            data.num_classes,
            config.model_settings,
            rngs=nnx.Rngs(0),
        )
    )
    arch = trace_model(config.model, model, data.input_shape)
    if config.subgraph is not None:
        try:
            arch = arch.subgraph(config.subgraph)
        except ValueError as error:
            raise UserError(f"`subgraph`: {error}") from error
    print(arch.summary())
    if config.plot is not None:
        _draw(arch, config.plot)
        print(f"graph: {config.plot}")
    return 0


def _draw(arch, path: Path) -> None:
    try:
        if path.suffix == ".dot":
            path.write_text(arch.to_dot() + "\n")
        else:
            arch.plot().figure.savefig(path, bbox_inches="tight")
    except OSError as error:
        raise UserError(f"`plot` {path} cannot be written ({error})") from error
