"""The directory of a run: what is in it, and that nothing in it is overwritten."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import hpfree_jax as hp
from hpfree_jax._errors import UserError
from hpfree_jax._options import types_of
from hpfree_jax.training._config import TrainConfig, from_json, to_json
from hpfree_jax.training._metrics import MetricsFile

LOCK = ".lock"  # name of the file that a training process locks


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

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out of the directory while the block runs.

        The kernel gives the lock back however the process ends, so the file that stays
        behind means nothing. Where there are no such locks (Windows, some network file
        systems), this does nothing.

        Raises:
          UserError: if another process holds it, or the directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("a")
        except OSError as error:
            raise UserError(
                f"the run directory {self.path} cannot be written ({error}); choose "
                "another --output-dir, or make it writable"
            ) from error
        with file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process is training in {self.path}; wait for its end or "
                    "stop it, then try again"
                ) from error
            except OSError:
                pass
            yield

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
            "started": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
            "first_step": first_step,
            "command": sys.argv,
            "versions": versions(),
            "platform": platform.platform(),
            "device": jax.devices()[0].device_kind,
        }
        content = {
            "config": to_json(config),
            "seed": config.seed,
            **{key: session[key] for key in ("versions", "device", "command")},
            "sessions": [*sessions, session],
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json(self.config_file.name, content)
        except OSError as error:
            raise UserError(
                f"`output_dir` {self.path} cannot be written ({error}); choose another"
            ) from error

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
        aside = self.path / (name + ".tmp")
        aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        aside.replace(self.path / name)


def _check_types(config: TrainConfig) -> None:
    for name, hint in typing.get_type_hints(TrainConfig).items():
        value, kinds = getattr(config, name), types_of(hint)
        # Exact, since a bool is an int; a path and a whole number come as subtypes.
        fits = type(value) in kinds or (Path in kinds and isinstance(value, Path))
        fits |= name == "settings" and isinstance(value, dict)
        if not fits and not (float in kinds and type(value) is int):
            raise TypeError(f"`{name}` cannot be {value!r}")


def default_directory(config: TrainConfig) -> Path:
    """``runs/<dataset>-<model>-<method>-<time>``, a directory that does not exist."""
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    data = Path(config.dataset).name  # of a folder, its last part
    name = f"{data}-{config.model}-{config.method}-{time}"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def versions() -> dict[str, str]:
    """Versions of all that can change a result."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "hpfree_jax": hp.__version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }
