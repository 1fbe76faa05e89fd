"""Records and images that cannot be read, in runs of the command line."""

import json

import numpy as np
import pytest

from hpfree_jax.cli import main
from hpfree_jax.data import DATASETS, load_dataset
from tests.data.conftest import TinyPhotographs, jpeg, photograph, write_archives
from tests.training.conftest import read_metrics

SMALL = ["--model=fcn", "--depth=1", "--epochs=2", "--log-every=1"]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """ImageNet's features: 12 examples, of which a cut JPEG and one that is none."""
    examples = [(jpeg(photograph(i, 20, 24)), i) for i in range(12)]
    examples[3] = (examples[3][0][:200], 3)
    examples[7] = (b"no image", 7)
    monkeypatch.setattr(TinyPhotographs, "examples", examples)
    builder = TinyPhotographs(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    entry = DATASETS["imagenet2012"]._replace(
        prepared_builder=lambda folder: builder, input_shape=(16, 16, 3)
    )
    monkeypatch.setitem(DATASETS, "photographs", entry)
    return tmp_path


def test_damaged_images_of_a_stream_are_replaced_and_reported(
    photographs, tmp_path, capfd
):
    run = tmp_path / "run"
    args = ["--dataset=photographs", f"--data-dir={photographs}", "--batch-size=6"]
    assert main(["train", *SMALL, *args, f"--output-dir={run}"]) == 0
    assert [x["step"] for x in read_metrics(run) if "loss" in x] == [1, 2, 3, 4]
    notes = [
        f"2 of 12 examples of tiny_photographs/{split} cannot be read and are skipped; "
        "the first, number"
        for split in ("train", "validation")
    ]
    found = json.loads((run / "summary.json").read_text())["skipped"]
    printed = [x[6:] for x in capfd.readouterr().out.splitlines() if "note" in x]
    assert found == printed
    for note, expected in zip(found, notes, strict=True):
        assert note.startswith(expected)
        assert note.endswith(("has no end", "no image that OpenCV can decode"))


def test_damaged_records_in_memory_are_left_out_and_reported(tmp_path, capsys):
    load_dataset("digits", tmp_path)
    (shard,) = tmp_path.rglob("digits-train.array_record*")
    content = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    content[np.median(np.flatnonzero(content)).astype(int)] ^= 255
    shard.write_bytes(content.tobytes())
    run, capture = tmp_path / "run", capsys.readouterr
    args = [f"--data-dir={tmp_path}", "--batch-size=719", f"--output-dir={run}"]
    assert main(["train", *SMALL, *args]) == 0
    summary = json.loads((run / "summary.json").read_text())
    (note,) = summary["skipped"]
    assert note.startswith("1 of 1438 examples of digits/train cannot be read")
    assert f"note: {note}\n" in capture().out
    assert summary["step"] == 2  # 1,437 examples: one batch an epoch


def test_in_preparation_a_damaged_image_ends_the_command(tmp_path, capsys):
    def change(files):
        name = min(files)
        files[name] = files[name][: len(files[name]) // 2]

    write_archives(tmp_path, change=change)
    args = ["--dataset=imagenet2012", f"--data-dir={tmp_path}", "--batch-size=2"]
    run = tmp_path / "run"
    assert main(["train", *SMALL, *args, f"--output-dir={run}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "n01440764_0.JPEG" in error
    assert "the JPEG image has no end" in error
    assert not run.exists()
    assert not (tmp_path / "imagenet2012" / "5.1.0").exists()
