"""What a reader sees names no place on the authors' machines and no private word."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READ = ("hpfree_jax", "docs", "examples", "benchmarks", "README.md", "CONTRIBUTING.md")
ENDINGS = {".py", ".md", ".jinja"}  # not .json: records of what was run, as it was run
PRIVATE = re.compile(r"\.\./shared|(?<![\w.~])/(?:work|root)/|\bmarks?\s+met\b", re.I)


def texts(name):
    paths = [ROOT / name, *sorted((ROOT / name).rglob("*"))]
    return [path for path in paths if path.suffix in ENDINGS]


@pytest.mark.parametrize("name", READ)
def test_no_private_word(name):
    paths = texts(name)
    assert paths
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}"
        for path in paths
        for match in PRIVATE.finditer(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_private"),
    [
        ("from ../shared/tfds", True),
        ("--data-dir /work/tfds", True),
        ("in /root/data", True),
        ("all marks\nmet", True),
        ("models/work/x and ~/work/", False),
        ("the benchmarks met", False),
    ],
)
def test_private_words_are_found(text, is_private):
    assert bool(PRIVATE.search(text)) == is_private
