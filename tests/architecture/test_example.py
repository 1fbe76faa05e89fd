import runpy
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[2] / "examples" / "architecture.py"


def test_the_example_trains_by_both_ways(capsys, tmp_path):
    picture = tmp_path / "graph.svg"
    for losses in runpy.run_path(str(EXAMPLE))["main"](picture):
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.7 * losses[0]
    assert "3 path(s) of 3 to 5 layers" in capsys.readouterr().out
    assert picture.stat().st_size > 1000
