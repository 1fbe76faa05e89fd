import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "--dataset digits --width 8 --batch-size 32 --steps 10 --measured 64 --seeds 1"
)


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(ROOT / ".cache" / "tfds"))
        yield runpy.run_path(str(ROOT / "examples" / "learning_rate_transfer.py"))


@pytest.mark.slow
def test_the_recipe_runs_end_to_end_and_reads_what_it_stored(example, tmp_path, capsys):
    output, picture = tmp_path / "result.json", tmp_path / "plot.png"
    arguments = f"{OPTIONS} --depths 3 4 --dags 1 --dags-without-skips 0".split()
    arguments += ["--output", str(output), "--plot", str(picture)]
    summary = example["main"](arguments)
    result = json.loads(output.read_text())
    assert len(result["networks"]) == 3
    base, deeper = result["networks"][:2]
    assert base["predicted"] == base["found"] == result["base_rate"]
    assert deeper["predicted"] == pytest.approx(base["predicted"] * (3 / 4) ** 1.5)
    assert base["loss_predicted"] == pytest.approx(min(base["losses"]), abs=1e-3)
    assert summary["plain depth"]["networks"] == 2
    assert picture.stat().st_size > 1000
    capsys.readouterr()
    assert example["main"](arguments) == summary
    assert "2_02: 0 s" in capsys.readouterr().out


def test_edges_that_lead_nowhere_are_left_out(example):
    assert example["live_edges"]("2_00_120") == {(0, 1): "2", (1, 3): "2", (0, 3): "1"}
    assert example["live_edges"]("2_02_001") == {
        (0, 1): "2",
        (1, 2): "2",
        (2, 3): "1",
    }
    assert example["live_edges"]("2_01_100") == {(0, 3): "1"}


@pytest.mark.parametrize("kinds", ["012", "02"])
def test_random_dags_have_paths_and_the_right_edges(example, kinds):
    codes = example["random_dags"](20, 0, kinds)
    assert set("".join(codes)) <= {*kinds, "_"}
    for code in codes:
        assert [len(group) for group in code.split("_")] == [1, 2, 3, 4]
        assert example["live_edges"](code)
