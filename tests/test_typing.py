"""What a type checker says of code that uses the package."""

import subprocess
import sys
from pathlib import Path

import pytest

TYPING = Path(__file__).parent / "typing"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accepted.py", "refused.py"])
def test_pyright_accepts_calls_of_the_docs_and_refuses_mistakes(name):
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", str(TYPING / name)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=TYPING.parents[1], check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
