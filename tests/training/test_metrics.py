import pytest

from hpfree_jax.training._files import MetricsFile


@pytest.fixture
def metrics(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.append(step=step, loss=step / 3)
    return metrics


def test_lines_are_read_as_they_were_written(metrics):
    assert metrics.read() == [{"step": s, "loss": s / 3} for s in (1, 2, 3)]


def test_a_line_cut_short_by_a_crash_is_left_out(metrics):
    metrics.path.write_text(metrics.path.read_text()[:-8])
    assert [line["step"] for line in metrics.read()] == [1, 2]


def test_lines_after_a_step_are_dropped(metrics):
    metrics.drop_after(2)
    metrics.append(step=4)
    assert [line["step"] for line in metrics.read()] == [1, 2, 4]
    assert [path.name for path in metrics.path.parent.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_not_written(metrics, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        metrics.append(step=4, loss=value)
    assert len(metrics.read()) == 3


def test_no_file_has_no_lines(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    assert metrics.read() == []
    metrics.drop_after(0)
    assert metrics.read() == []
