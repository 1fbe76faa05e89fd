import csv
import html.parser
import json
import re
import shutil

import jax
import pyarrow.parquet
import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison import CompareConfig, TaskSpec, compare
from hpfree_jax.comparison._runner import Runner

from .conftest import TINY

METHODS = ("agd", "adam", "cocob", "sgd:learning_rate=1e30")
GRID = {"grid": ("adam",), "grid_rates": (1e-3, 1e-2)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of methods that go well, of one that does not, and of a grid."""
    directory = tmp_path_factory.mktemp("comparison") / "out"
    settings = {**TINY, **GRID, "methods": METHODS, "seeds": 2}
    return compare(CompareConfig(output_dir=directory, **settings))


@pytest.fixture
def again(finished, tmp_path):
    """The configuration of the finished comparison, in a copy of its directory."""
    directory = tmp_path / "copy"
    shutil.copytree(finished.directory, directory)

    def make(**changes):
        settings = {**TINY, **GRID, "methods": METHODS, "seeds": 2}
        return CompareConfig(**{**settings, "output_dir": directory, **changes})

    return make


def runs(directory):
    return {path: path.read_text() for path in directory.glob("runs/**/*.json")}


def test_every_run_is_made_once_and_kept(finished):
    # Five variants, since 1e-3 is Adam's rate in both; two seeds each.
    assert (finished.runs_made, finished.runs_found) == (10, 0)
    assert len(runs(finished.directory)) == 10


def test_the_table_is_tidy(finished):
    with (finished.directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = ("task", "method", "seed", "split", "step")
    assert len({tuple(row[name] for name in key) for row in rows}) == len(rows)
    labels = {row["method"] for row in rows}
    assert labels == {*METHODS, "adam, best of 2"}
    (last,) = (
        row for row in rows
        if (row["method"], row["seed"], row["split"]) == ("agd", "1", "test")
        and row["step"] == "7"
    )  # fmt: skip
    record = finished.summary.results[last["task"], "agd"].records[1]
    assert float(last["accuracy"]) == record.final_test_accuracy
    assert (last["learning_rate"], last["init"]) == ("", "agd")
    assert {row["status"] for row in rows if "1e30" in row["method"]} == {"diverged"}
    cocob = [row for row in rows if row["method"] == "cocob"]
    assert {row["learning_rate"] for row in cocob} == {""}
    assert {row["best_of"] for row in rows if "best" in row["method"]} == {"2"}
    # Lines at steps 2, 4, 6, 7 and evaluations at 4 and 7, for both seeds.
    assert len(cocob) == 2 * (4 + 2)


VOID = {"meta", "path", "use", "br", "stop", "line", "rect", "circle"}


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.references, self.open, self.tables = [], [], 0

    def handle_starttag(self, tag, attributes):
        names = ("href", "src", "xlink:href", "data")
        self.references += [value for name, value in attributes if name in names]
        self.tables += tag == "table"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_report_needs_no_other_file(finished):
    text = (finished.directory / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert page.references  # glyphs and marks within the pictures
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "<script" not in text
    # Scores, settings, the grid and one task.
    assert (page.tables, text.count("<svg ")) == (4, 2)
    for label in (*METHODS, "adam, best of 2"):
        assert label in text
    assert "learning rate, for each task out of 0.001, 0.01" in text
    assert "the architecture" in text


def test_the_same_command_finds_all_and_makes_nothing(again, monkeypatch):
    config = again(table="parquet")
    before = runs(config.output_dir)
    monkeypatch.setattr(Runner, "run", None)
    result = compare(config)
    assert (result.runs_made, result.runs_found) == (0, 10)
    assert runs(config.output_dir) == before
    table = pyarrow.parquet.read_table(config.output_dir / "results.parquet")
    with (config.output_dir / "results.csv").open() as file:
        assert table.num_rows == len(list(csv.DictReader(file)))
    assert (
        len(json.loads((config.output_dir / "plan.json").read_text())["sessions"]) == 2
    )


def test_a_killed_comparison_makes_only_what_is_missing(again, finished, monkeypatch):
    config = again()
    lost, damaged, *kept = sorted(config.output_dir.glob("runs/*/a*/*.json"))
    expected = {path: json.loads(path.read_text()) for path in (lost, damaged)}
    lost.unlink()
    damaged.write_text(damaged.read_text()[:100])
    (lost.parent / ".seed-0.json.123.tmp").write_text("{")  # as a kill leaves it
    times = {path: path.stat().st_mtime_ns for path in kept}
    result = compare(config)
    assert (result.runs_made, result.runs_found) == (2, 8)
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    for path, content in expected.items():
        again_made = json.loads(path.read_text())
        for split in ("train", "test"):
            for key, values in content[split].items():
                assert again_made[split][key] == pytest.approx(values, rel=1e-4)
    assert damaged.with_suffix(".damaged").exists()


def test_another_plan_in_the_directory_is_refused(again):
    config = again(steps=8)
    before = runs(config.output_dir)
    with pytest.raises(UserError, match=r"steps` is 7 there and 8 here"):
        compare(config)
    assert runs(config.output_dir) == before


def test_a_method_can_be_added(again):
    result = compare(again(methods=(*METHODS, "adamw")))
    assert (result.runs_made, result.runs_found) == (2, 10)


def test_a_directory_of_something_else_is_refused(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no comparison"):
        compare(config())


def test_a_damaged_plan_is_refused(again):
    config = again()
    (config.output_dir / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json cannot be read .*; restore"):
        compare(config)


def test_a_model_that_does_not_suit_the_data_is_named(config):
    with pytest.raises(
        UserError, match=r"adam cannot train digits/fcn.*`batch_size` 5000 is larger"
    ):
        compare(config(batch_size=5000))
    assert not list((config().output_dir).glob("runs/**/*.json"))


@pytest.mark.slow
def test_tasks_may_differ_in_length_and_loss(config):
    settings = {"depth": 2, "width": 8}
    tasks = [
        TaskSpec("long", "digits", "fcn", settings, 256, 4, "square"),
        TaskSpec("short", "digits", "fcn", {"depth": 1}, 512, 2, "cross_entropy"),
    ]
    result = compare(config(log_every=2, evaluate_every=2), tasks)
    (long,) = result.summary.results["long", "adam"].records
    (short,) = result.summary.results["short", "adam"].records
    assert (long.train["step"], short.test["step"]) == ([2, 4], [2])
    assert short.run["task"]["loss"] == "cross_entropy"
    assert (result.directory / "runs" / "short").is_dir()


def test_too_little_memory_is_said_with_a_remedy(config, monkeypatch):
    def run(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Runner, "run", run)
    for seeds, remedy in ((1, "make `batch_size` smaller"), (2, "--parallel never")):
        with pytest.raises(UserError, match=f"does not fit into memory .*{remedy}"):
            compare(config(seeds=seeds))


def test_ctrl_c_keeps_what_is_finished(config, monkeypatch, capsys):
    """The second of two groups is asked to stop at its first line."""
    made, run = [], Runner.run

    def interrupted(self, *args):
        if made:
            self._stop = lambda: True
        made.append(True)
        return run(self, *args)

    monkeypatch.setattr(Runner, "run", interrupted)
    result = compare(config(methods=("adam", "adamw")))
    assert result.summary is None
    assert len(runs(result.directory)) == result.runs_made == 1
    monkeypatch.setattr(Runner, "run", run)
    result = compare(config(methods=("adam", "adamw")))
    assert (result.runs_made, result.runs_found) == (1, 1)
