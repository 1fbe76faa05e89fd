"""Datasets that TFDS stores: where they are, and preparing them."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpfree_jax._errors import UserError
from hpfree_jax.data._entry import DatasetEntry, Directory


def data_directory(data_dir: Directory = None) -> Path:
    """Returns the TFDS directory that is meant; raises UserError if it must exist."""
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise UserError(
            f"`data_dir` {str(data_dir)!r} is no directory; give one that exists, or "
            "leave it out for TFDS's default"
        )
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(data_dir or default).expanduser()


@contextlib.contextmanager
def opened(entry: DatasetEntry, name: str, data_dir: Directory) -> Iterator[Any]:
    """Gives the prepared builder; an error within says where the data is."""
    folder = data_directory(data_dir)
    try:
        with _quiet_logs():
            assert entry.prepared_builder is not None  # a row that TFDS stores
            yield entry.prepared_builder(folder)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever TFDS and array_record make of damaged files
        reason = " ".join(str(error).split())[:200]
        raise _damaged(name, folder, f"{type(error).__name__}: {reason}") from error


def _damaged(name: str, folder: Path, reason: str) -> UserError:
    stored = folder / name
    remedy = f"move {stored} away to prepare it again, or " if stored.exists() else ""
    return UserError(
        f"dataset {name} cannot be stored in or read from {folder} as array_record "
        f"({reason}); {remedy}choose another --data-dir"
    )


def prepared_digits(data_dir: Path) -> Any:
    import tensorflow_datasets as tfds

    from hpfree_jax.data._digits import Digits

    final = data_dir / "digits" / str(Digits.VERSION)
    if not (final / "dataset_info.json").exists():
        # Prepared aside and moved in one piece: several processes may do this at once.
        data_dir.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".digits-", dir=data_dir))
        try:
            with _quiet_progress():
                builder = Digits(data_dir=aside, file_format="array_record")
                builder.download_and_prepare()
            final.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another process was first
                (aside / "digits" / final.name).rename(final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return tfds.builder_from_directory(final)


def prepared_official(name: str) -> Callable[[Path], Any]:
    def prepared(data_dir: Path) -> Any:
        import tensorflow_datasets as tfds

        if name == "imagenet16_120":  # imported, it is in TFDS's catalogue
            import hpfree_jax.data._imagenet16  # noqa: F401
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            from hpfree_jax.data._official import prepare

            prepare(builder)
        return builder

    return prepared


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Hides array_record's advice on group sizes, meant for reading at random."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """Hides TFDS's messages and bars: preparing the digits takes a second."""
    hidden = io.StringIO()
    with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
        yield
