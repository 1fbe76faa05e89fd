"""Writes that fail in the middle: the run stops, and continues from what is good."""

import contextlib
import errno
import json
import os
import shutil

import pytest

from hpfree_jax.cli import main
from hpfree_jax.training import _session as session_module
from hpfree_jax.training import resume, train
from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._files import MetricsFile
from hpfree_jax.training._run_directory import RunDirectory
from tests.training.conftest import read_metrics, same

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BIG = {"width": 48, "method": "adam", "epochs": 3}  # a state of 43 kB


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to write more, in the middle of a file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_cut_off_leaves_the_one_before(config, monkeypatch, caplog):
    """Through Orbax and TensorStore: the third checkpoint does not fit."""
    whole = train(config("whole", **BIG))
    save = Checkpoints.save

    def save_limited(self, step, *args):
        # Less than one array: TensorStore may divide a state among several files.
        with files_of_at_most(2_000 if step == 15 else 10**9):
            save(self, step, *args)

    directory = config("part").output_dir
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_limited)
        with pytest.raises(ValueError, match="cannot be written") as error:
            train(config("part", **BIG))
    message, folder = str(error.value), directory / "checkpoints"
    assert f"the checkpoint {folder / '15'} cannot be written" in message
    assert "too large" in message  # what the system said
    assert f"the last good checkpoint is {folder / '10'}; make room" in message
    assert message.endswith(f"continue with hpfree train --resume {directory}")
    assert not caplog.records
    rest = resume(directory)
    assert same(rest, whole)
    # What there was of the unfinished one has given its room back.
    assert sorted(path.name for path in folder.iterdir()) == ["10", "15"]
    assert read_metrics(directory) == read_metrics(whole.directory)


def test_a_full_disk_at_any_other_write(config, monkeypatch, capsys):
    """In the middle of a line of metrics, at the picture, and at the summary."""
    whole = train(config("whole"))
    directory = config("part").output_dir
    args = [f"--{key}={value}" for key, value in [("depth", 2), ("width", 8)]]
    args += ["--method=agd", "--batch-size=256", "--epochs=2", "--log-every=2"]
    begin = ["train", *args, f"--output-dir={directory}"]
    again = ["train", f"--resume={directory}"]
    append, write_json = MetricsFile.append, RunDirectory.write_json

    def append_half(self, **values):
        if values["step"] < 7:
            return append(self, **values)
        with self.path.open("a") as file:
            file.write('{"step": 7, "lo')
        with session_module.writing(self.path):
            raise FULL

    def no_picture(*args, **options):
        raise FULL

    def no_summary(self, name, content):
        if name == "summary.json":
            raise FULL
        write_json(self, name, content)

    for command, owner, name, replacement, file, step in (
        (begin, MetricsFile, "append", append_half, "metrics.jsonl", 5),
        (again, session_module, "plot_curves", no_picture, "curves.png", 10),
        (again, RunDirectory, "write_json", no_summary, "summary.json", 10),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replacement)
            assert main(command) == 2
        (error,) = capsys.readouterr().err.splitlines()
        reason = f"{directory / file} cannot be written (No space left on device); "
        good = directory / "checkpoints" / str(step)
        assert f"{reason}the last good checkpoint is {good}; make room" in error
        assert f"hpfree train --resume {directory}" in error
    assert main(again) == 0
    assert read_metrics(directory) == read_metrics(whole.directory)
    assert (directory / "curves.png").exists()


def test_a_run_killed_before_its_results_writes_them(config):
    whole = train(config("whole"))
    part = shutil.copytree(whole.directory, whole.directory.parent / "part")
    text = (part / "config.json").read_text()
    (part / "config.json").write_text(text.replace(str(whole.directory), str(part)))
    (part / "curves.png").unlink()
    summary = json.loads((part / "summary.json").read_text())
    (part / "summary.json").unlink()
    (part / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()  # killed while saving
    rest = resume(part)
    assert same(rest, whole)
    assert rest.test_accuracy == whole.test_accuracy
    assert (part / "curves.png").exists()
    written = json.loads((part / "summary.json").read_text())
    assert written["status"] == "finished"
    for key in ("step", "epochs", "loss", "test_loss", "test_accuracy", "num_params"):
        assert written[key] == summary[key]
    names = sorted(path.name for path in (part / "checkpoints").iterdir())
    assert names == ["10", "5"]
    with pytest.raises(ValueError, match="is finished"):
        resume(part)
