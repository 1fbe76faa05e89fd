import json
import math

import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._records import RecordFile

from .records import record

RUN = {"settings": {}, "init": "default", "seed": 0, "task": {"steps": 20}}


@pytest.fixture
def file(tmp_path):
    return RecordFile(tmp_path / "runs" / "seed-0.json", RUN)


def finished(**changes):
    own = record([2.0, 1.0], **changes)
    return type(own)(**{**vars(own), "run": RUN})


def test_a_record_comes_back_as_it_was(file):
    assert file.read() is None
    for own in (finished(), finished(diverged_at=33)):
        file.write(own)
        assert file.read() == own
    assert [path.name for path in file.path.parent.iterdir()] == ["seed-0.json"]


def test_final_values_and_times():
    own = finished()
    assert (own.final_test_loss, own.final_test_accuracy) == (1, 0.5)
    assert own.final_loss == 1.5  # the mean of both lines
    assert [own.steps_to(target) for target in (2.5, 2.0, 1.5, 1.0)] == [
        *(10, 10, 20, math.inf)
    ]
    own = finished(diverged_at=33)
    assert (own.status, own.final_loss) == ("diverged", math.inf)
    assert math.isnan(own.final_test_accuracy)


def test_the_training_loss_is_smoothed_over_five_lines():
    own = record([10.0, 0.0, 8.0, 6.0, 6.0, 5.0, 0.0])
    assert own.smooth_loss == [10, 5, 6, 6, 6, 5, 5]
    assert own.final_loss == 5
    assert own.steps_to(5.5) == 20
    assert own.steps_to(1.0) == math.inf  # two lucky lines do not count


def shortened(text):
    return text[: len(text) // 2]


def other_seed(text):
    return json.dumps({**json.loads(text), "run": {**RUN, "seed": 1}})


def uneven(text):
    content = json.loads(text)
    content["train"]["loss"].pop()
    return json.dumps(content)


def unfinished(text):
    content = json.loads(text)
    for column in content["test"].values():
        column.pop()
    return json.dumps(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shortened, "JSONDecodeError"),
        (lambda text: "", "JSONDecodeError"),
        (lambda text: "[]", "TypeError"),
        (lambda text: '{"run": {}}', "TypeError"),
        (other_seed, "it is of another run"),
        (uneven, "the columns of `train` differ in length"),
        (unfinished, "it ends before the last step"),
    ],
)
def test_a_damaged_file_is_renamed_and_never_lost(file, damage, reason, caplog):
    for name in ("seed-0.damaged", "seed-0.damaged2"):
        file.write(finished())
        text = damage(file.path.read_text())
        file.path.write_text(text)
        assert file.read() is None
        assert (file.path.with_name(name)).read_text() == text
        assert not file.path.exists()
        assert reason in caplog.messages[-1]
        assert name in caplog.messages[-1]


def test_bytes_that_are_no_text_are_damage(file):
    file.write(finished())
    file.path.write_bytes(b"\xff\xfe\x00")
    assert file.read() is None


def test_a_full_disk_leaves_what_was_there(file, monkeypatch):
    file.write(finished())

    def full(path, data):
        with path.open("wb") as half:
            half.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(file.path), "write_bytes", full)
    with pytest.raises(UserError, match=r"No space left.*all runs finished .* kept"):
        file.write(finished(accuracy=0.9))
    assert file.read() == finished()
    assert [path.name for path in file.path.parent.iterdir()] == ["seed-0.json"]
