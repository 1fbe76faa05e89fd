import pytest

from hpfree_jax.cli import main

DAG = ("--model", "dag_mlp", "--dag", "2_12", "--width", "4")


@pytest.fixture
def run(capsys):
    def run(*args):
        code = main(["architecture", *map(str, args)])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("dataset", "fan_in"), [("digits", 64), ("mnist", 784), ("cifar10", 3072)]
)
def test_the_table_and_the_paths_are_printed(run, dataset, fan_in):
    code, out, err = run(*DAG, "--dataset", dataset)
    assert (code, err) == (0, "")
    assert f"{fan_in}x4" in out
    # stem, two edges and readout, with 3 biases of 4 and one of 10
    assert f"{fan_in * 4 + 2 * 16 + 40 + 3 * 4 + 10:,} parameters" in out
    assert "2 path(s) of 2 to 4 layers" in out


def test_a_block_alone(run):
    args = ("--model", "tiny_network", "--cell", "3_34_131", "--cells", "1")
    code, out, _ = run(*args, "--subgraph", "blocks/0")
    assert code == 0
    assert "blocks/0/edges/0_to_1/conv/kernel" in out
    assert "blocks/1" not in out
    assert "4 path(s) of 0 to 2 layers" in out


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF"), (".dot", b"digraph")],
)
def test_the_suffix_chooses_the_format_and_nothing_is_overwritten(
    run, tmp_path, suffix, start
):
    path = tmp_path / f"graph{suffix}"
    assert run(*DAG, "--plot", path)[0] == 0
    before = path.read_bytes()
    assert before.startswith(start)
    code, out, err = run("--plot", path)
    assert (code, out) == (2, "")
    assert "nothing is overwritten; choose another name" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--model fnc", "unknown model 'fnc' (did you mean 'fcn'?)"),
        ("--dataset minst", "unknown dataset 'minst'"),
        ("--plot graph.gif", "must end in one of .svg, .png, .pdf, .dot"),
        ("--plot /nowhere/graph.svg", "/nowhere is no directory; make it first"),
        ("--subgraph blocks", "`subgraph`: No layer has a path under `blocks`"),
        ("--model dag_mlp --dag 2_2", "Node 2 of '2_2' needs 2"),
        ("--model dag_cnn --kernel-size 0", "`kernel_size` must be at least 1, got 0"),
        ("--model tiny_network --cells 0", "`cells` must be at least 1, got 0"),
        ("--cell 3_34_131", "`cell` 3_34_131 does not apply to model fcn"),
        ("--colour", "hpfree architecture --help lists the options"),
    ],
)
def test_bad_input_is_one_line(run, args, message):
    code, out, err = run(*args.split())
    assert (code, out) == (2, "")
    assert err.startswith("hpfree: error: ")
    assert err.count("\n") == 1
    assert message in err
