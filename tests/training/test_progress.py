import contextlib
import sys
import time

from hpfree_jax.training import _progress
from hpfree_jax.training._progress import Progress


@contextlib.contextmanager
def shown(total_steps, first_step):
    progress = Progress()
    with progress.steps(total_steps, first_step):
        yield progress


def test_without_a_terminal_reports_are_plain_lines(capsys):
    with shown(10, 0) as progress:
        progress.advance(5)
        progress.report("epoch 1/2")
    assert capsys.readouterr() == ("epoch 1/2\n", "")


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown(10, 2) as progress:
        progress.advance(3)
        progress.report("epoch 1/2")
        progress._bar.refresh()
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2" in err
    assert "5/10" in err


def test_long_epochs_have_lines_of_their_own(capsys, monkeypatch):
    """Steps of 20 seconds after half an hour of compilation."""
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with shown(100, 10) as progress:
        with progress.waiting("compiling"):
            now[0] += 1800
        for _ in range(5):
            now[0] += 20
            progress.advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "step 11/100, 20 s each, about 0:29:40 left",
        "step 14/100, 20 s each, about 0:28:40 left",
    ]


def test_a_long_wait_is_explained(capsys, monkeypatch):
    with shown(10, 0) as progress:
        with progress.waiting("nothing"):
            pass
        monkeypatch.setattr(_progress, "PATIENCE", 0.01)
        with progress.waiting("compiling"):
            time.sleep(0.2)
    assert capsys.readouterr().out == "compiling ...\n"
