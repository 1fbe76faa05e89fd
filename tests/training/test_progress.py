import sys

from hpfree_jax.training._progress import Progress


def test_without_a_terminal_reports_are_plain_lines(capsys):
    with Progress(10, 0) as progress:
        progress.advance(5)
        progress.report("epoch 1/2")
    assert capsys.readouterr() == ("epoch 1/2\n", "")


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(10, 2) as progress:
        progress.advance(3)
        progress.report("epoch 1/2")
        progress._bar.refresh()
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2" in err
    assert "5/10" in err
