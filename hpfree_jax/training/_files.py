"""Files of a run and of a comparison: how they are written, and on what machine."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

import hpfree_jax as hp
from hpfree_jax._errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"  # name of the file that a training process locks


class WriteError(UserError):
    """A file cannot be written, because the disk is full, say."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into a WriteError that names the file and the reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"{path} cannot be written ({reason})") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, and makes the directories above it.

    Raises:
      WriteError: if it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(data)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


class MetricsFile:
    """The file ``metrics.jsonl`` of a run: one JSON object on each line.

    Every line has a ``step``, the number of updates made. Training lines hold means
    over the steps since the line before, evaluation lines the values on the test data.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, **values: Any) -> None:
        """Writes a line; raises ValueError for NaN and infinities, which JSON lacks.

        Raises:
          WriteError: if it cannot be written.
        """
        line = json.dumps(values, allow_nan=False)
        with writing(self.path), self.path.open("a") as file:
            file.write(line + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Returns the lines; one cut short by a crash is left out."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def drop_after(self, step: int) -> None:
        """Removes the lines of later steps, which a resumed run writes again."""
        kept = [line for line in self.read() if line["step"] <= step]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a directory while the block runs.

    The kernel releases the lock however the process ends, so the file that stays behind
    means nothing. Where there are no such locks (Windows, some network file systems),
    this does nothing.

    Raises:
      UserError: if another process holds it, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("a")
    except OSError as error:
        raise UserError(
            f"the run directory {directory} cannot be written ({error}); choose "
            "another --output-dir, or make it writable"
        ) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {directory}; wait for its end or "
                "stop it, then try again"
            ) from error
        except OSError:
            pass
        yield


def free_name(path: Path) -> Path:
    """Returns the path, with a number behind its name if it is taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}{number}")
    return free


def default_directory(name: str) -> Path:
    """Returns ``runs/<name>-<time>``, a directory that does not exist."""
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{name}-{time}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{time}-{number}"
    return path


def now(separator: str = " ") -> str:
    """Returns date and time, to the second, with the time zone."""
    return datetime.datetime.now().astimezone().isoformat(separator, "seconds")


def versions() -> dict[str, str]:
    """Returns the versions of all that can change a result."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "hpfree_jax": hp.__version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def machine() -> dict[str, Any]:
    """Returns what a result can depend on besides the configuration."""
    return {
        "versions": versions(),
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
        "device": jax.local_devices()[0].device_kind,
    }
