"""The code of README.md and docs/ runs: every Python block, every ``hpfree`` command.

The blocks of a page run in its order and in one namespace. What a block prints after
``>>>`` is compared by the doctests (``--doctest-glob``). A block that cannot run in a
test has a line ``<!-- not run: REASON -->`` above it.
"""

import contextlib
import doctest
import io
import re
import shlex
from pathlib import Path

import pytest

from hpfree_jax.cli import main as hpfree

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SLOW = {"compare.md", "training.md"}  # these train
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\s*\n)?^```(?P<language>\w+)\n"
    r"(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def blocks(page, language):
    """Returns line and code of each block that runs, and the reasons of the others."""
    text, found, reasons = page.read_text(), [], []
    for match in BLOCK.finditer(text):
        if match["language"] == language:
            if match["reason"]:
                reasons.append(match["reason"])
            else:
                found.append((text.count("\n", 0, match.start("code")), match["code"]))
    return found, reasons


def plain(code):
    """Returns a block without the prompts and output of an interactive session."""
    return doctest.script_from_examples(code) if code.startswith(">>>") else code


def commands(page):
    """Returns the arguments of each ``hpfree`` command in a page's bash blocks."""
    code = "".join(code for _, code in blocks(page, "bash")[0])
    lines = code.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True)[1:] for line in lines if line[:7] == "hpfree "
    ]


def with_python(page):
    found = blocks(page, "python")[0]
    return any(not code.startswith(">>>") for _, code in found)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in SLOW else [])
        for p in PAGES
        if with_python(p)
    ],
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, code in blocks(page, "python")[0]:
        source = compile("\n" * line + plain(code), str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(source, namespace)


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(a, id=" ".join(a)[:60]) for page in PAGES for a in commands(page)],
)
def test_commands_parse(arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        assert hpfree([*arguments, "--help"]) == 0


def test_few_blocks_are_left_out():
    reasons = [reason for page in PAGES for reason in blocks(page, "python")[1]]
    assert len(reasons) <= 5, reasons


def test_a_broken_block_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n```\n<!-- not run: why -->\n```python\n1/0\n```\n"
    )
    assert blocks(page, "python") == ([(1, "x = 1\n")], ["why"])
