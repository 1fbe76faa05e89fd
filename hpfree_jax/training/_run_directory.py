"""The directory of a run: what is in it, and that nothing in it is overwritten."""

import dataclasses
import json
import sys
import typing
from pathlib import Path
from typing import Any

from hpfree_jax._errors import UserError
from hpfree_jax._options import types_of
from hpfree_jax.training._config import TrainConfig, from_json, to_json
from hpfree_jax.training._files import (
    LOCK,
    MetricsFile,
    WriteError,
    machine,
    now,
    versions,
    write_whole,
)


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths of a run, and its stored configuration."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration, and what the run ran on."""
        return self.path / "config.json"

    @property
    def metrics(self) -> MetricsFile:
        """The metrics, a line of JSON each."""
        return MetricsFile(self.path / "metrics.jsonl")

    @property
    def curves(self) -> Path:
        """The picture."""
        return self.path / "curves.png"

    @property
    def summary(self) -> Path:
        """The last metrics, and how the latest session ended."""
        return self.path / "summary.json"

    @property
    def sample(self) -> Path:
        """The text drawn from a language model."""
        return self.path / "sample.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def check_is_new(self) -> None:
        """Raises UserError if there is something that a new run could overwrite."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(
                f"`output_dir` {self.path} is a file; choose another directory"
            )
        if self.path.is_dir() and any(p.name != LOCK for p in self.path.iterdir()):
            raise UserError(
                f"`output_dir` {self.path} is not empty and nothing is overwritten; "
                f"choose another directory, or continue it with --resume {self.path}"
            )

    def read_config(self) -> TrainConfig:
        """Returns the configuration of the run that is here, or raises UserError."""
        try:
            stored = json.loads(self.config_file.read_text())
            for key, kind in (("config", dict), ("versions", dict), ("sessions", list)):
                if not isinstance(stored[key], kind):
                    raise TypeError(f"`{key}` is no {kind.__name__}")
            config = from_json(stored["config"], str(self.config_file))
            _check_types(config)
            return config
        except FileNotFoundError as error:
            raise UserError(
                f"`resume` {self.path} holds no run (no {self.config_file.name}); give "
                "the directory that a run printed"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.config_file} cannot be read ({error!r}); restore the file, or "
                "start a new run"
            ) from error

    def write_config(self, config: TrainConfig, first_step: int) -> None:
        """Stores configuration, versions and device; keeps a list of all sessions.

        Raises:
          UserError: if nothing can be written there.
        """
        sessions = []
        if self.config_file.exists():
            sessions = json.loads(self.config_file.read_text())["sessions"]
        session = {
            "started": now("T"),
            "first_step": first_step,
            "command": sys.argv,
            **machine(),
        }
        content = {
            "config": to_json(config),
            "seed": config.seed,
            **{key: session[key] for key in ("versions", "device", "command")},
            "sessions": [*sessions, session],
        }
        try:
            self.write_json(self.config_file.name, content)
        except WriteError as error:
            raise UserError(f"`output_dir`: {error}; choose another") from error

    def is_finished(self, step: int) -> bool:
        """Whether a session ended after that step and wrote all its results."""
        try:
            summary = json.loads(self.summary.read_text())
            return (summary["status"], summary["step"]) == ("finished", step)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def changed_versions(self) -> list[str]:
        """Says which versions differ from those that the run began with."""
        stored = json.loads(self.config_file.read_text())["versions"]
        return [
            f"{name} {stored.get(name)} became {version}"
            for name, version in versions().items()
            if stored.get(name) != version
        ]

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a file whole or not at all."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_whole(self.path / name, text)


def _check_types(config: TrainConfig) -> None:
    for name, hint in typing.get_type_hints(TrainConfig).items():
        value, kinds = getattr(config, name), types_of(hint)
        # Exact, since a bool is an int; a path and a whole number come as subtypes.
        fits = type(value) in kinds or (Path in kinds and isinstance(value, Path))
        fits |= name == "settings" and isinstance(value, dict)
        if not fits and not (float in kinds and type(value) is int):
            raise TypeError(f"`{name}` cannot be {value!r}")
