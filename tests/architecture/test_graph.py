"""Statistics, parts and drawings of a traced graph."""

import copy
import itertools
import pickle
import sys

import jax
import jax.numpy as jnp
import pytest

import hpfree_jax as hp
from tests.architecture.drawing import draw, layers, shape

relu = jax.nn.relu


def residual(p, x):
    x = x @ p["stem"]
    for block in p["blocks"]:
        x = x + relu(x @ block["a"]) @ block["b"]
    return x @ p["head"]


def residual_arch(num_blocks):
    w = shape(4, 4)
    blocks = [{"a": w, "b": w}] * num_blocks
    params = {"stem": w, "blocks": blocks, "head": w}
    return hp.trace_architecture(residual, params, shape(1, 4))


def enumerate_paths(arch):
    """Depths of all paths, one by one, from every input to every output."""

    def walk(index):
        node = arch.nodes[index]
        if node.kind == "input":
            yield 0
        for pred in node.preds:
            for depth in walk(pred):
                yield depth + (node.kind == "layer")

    return sorted(itertools.chain.from_iterable(map(walk, arch.outputs)))


def dense(p, x):
    features = [x @ p["stem"]]
    for layer in p["layers"]:
        features.append(relu(jnp.concatenate(features, -1) @ layer))
    return sum(features) @ p["head"]


def dense_arch(num_layers):
    sizes = [shape(4 * (i + 1), 4) for i in range(num_layers)]
    params = {"stem": shape(4, 4), "layers": sizes, "head": shape(4, 2)}
    return hp.trace_architecture(dense, params, shape(1, 4))


@pytest.mark.parametrize("arch", [residual_arch(5), dense_arch(6)], ids=["add", "cat"])
def test_statistics_agree_with_enumeration(arch):
    depths = enumerate_paths(arch)
    assert len(depths) > 30
    histogram = {depth: depths.count(depth) for depth in depths}
    assert arch.path_depths == histogram
    assert arch.num_paths == len(depths)
    assert (arch.min_depth, arch.max_depth) == (depths[0], depths[-1])
    assert arch.mean_path_depth == sum(depths) / len(depths)
    assert arch.sum_cubed_depths == sum(depth**3 for depth in depths)


def test_counts_are_exact_far_beyond_floats():
    arch = residual_arch(120)
    assert arch.num_paths == sum(arch.path_depths.values()) == 2**120
    assert arch.path_depths[2] == 1
    assert arch.path_depths[4] == 120
    assert arch.mean_path_depth == 2 + 120
    cubes = sum(count * depth**3 for depth, count in arch.path_depths.items())
    assert arch.sum_cubed_depths == cubes
    assert all(type(n) is int for item in arch.path_depths.items() for n in item)


def test_the_graph_grows_linearly_with_the_blocks():
    sizes = [len(residual_arch(n).nodes) for n in (10, 20, 40)]
    assert sizes == [3 + 3 * n for n in (10, 20, 40)]


def test_a_block_as_a_subgraph():
    arch = residual_arch(3)
    block = arch.subgraph("blocks/1")
    assert draw(block) == "+(x, blocks/1/b(blocks/1/a(x)))"
    assert block.path_depths == {0: 1, 2: 1}
    assert layers(block, "in_degree") == {"blocks/1/a": 1, "blocks/1/b": 2}
    assert arch.subgraph("blocks").path_depths == {0: 1, 2: 3, 4: 3, 6: 1}
    assert arch.subgraph("blocks/1/b").path_depths == {1: 1}
    assert arch.subgraph("blocks/1/") == block
    with pytest.raises(
        ValueError, match=r"No layer has a path under `block`.*`blocks`"
    ):
        arch.subgraph("block")


def test_a_subgraph_with_several_inputs_and_outputs():
    def net(p, x, y):
        x, y = x @ p["a"], y @ p["b"]
        z = x @ p["m"]["k"] + y @ p["m"]["v"]
        return z @ p["c"], relu(z) @ p["d"]

    w = shape(4, 4)
    params = {"a": w, "b": w, "c": w, "d": w, "m": {"k": w, "v": w}}
    block = hp.trace_architecture(net, params, shape(1, 4), shape(1, 4)).subgraph("m")
    assert draw(block, ["a", "b"]) == "+(m/k(a), m/v(b))"
    assert block.num_paths == 2


def test_scaling_by_a_block_needs_no_warning():
    arch = residual_arch(12)
    with pytest.warns(UserWarning, match="subgraph"):
        hp.scale_learning_rate(0.1, arch)
    block = arch.subgraph("blocks/0")
    rate = hp.scale_learning_rate(0.1, block, base_depths=[1])
    assert rate == pytest.approx(0.1 * (0 + 8) ** -0.5)


def test_summary_says_it_all():
    def net(p, tokens):
        x = p["table"][tokens] * p["scale"]
        q, k = jnp.split(x @ p["qk"], 2, -1)
        x = x + (q * k) @ p["out"]
        return x @ p["head"]

    params = {"table": shape(11, 4), "scale": shape(4), "qk": shape(4, 8)}
    params |= {"out": shape(4, 4), "head": shape(4, 3)}
    arch = hp.trace_architecture(net, params, shape(2, 5, dtype=jnp.int32))
    assert arch.summary() == (
        "layer  kind       shape  fan_in  fan_out  in_degree  uses\n"
        "-----  ---------  -----  ------  -------  ---------  ----  --------\n"
        "table  embedding  11x4   11      4        1          1\n"
        "qk     dense      4x8    4       8        1          1     cut in 2\n"
        "out    dense      4x4    4       4        2          1\n"
        "head   dense      4x3    4       3        1          1     readout\n"
        "\n"
        "vector  follows  role\n"
        "------  -------  -----\n"
        "scale   table    scale\n"
        "\n"
        "4 layer(s), 1 sum(s), 0 join(s), 108 parameters\n"
        "2 path(s) of 2 to 4 layers, 3 on average\n"
        "sum of cubed depths: 72"
    )


def test_summary_of_many_paths_stays_short():
    assert "1.329e36 path(s) of 2 to 242 layers, 122 on average" in (
        residual_arch(120).summary()
    )


def test_dot():
    arch = residual_arch(1)
    lines = arch.to_dot().splitlines()
    assert lines[0] == "digraph architecture {"
    assert lines[-1] == "}"
    edges = {line.strip() for line in lines if "->" in line}
    # 0 input, 1 stem, 2 a, 3 b, 4 sum, 5 head
    assert edges == {
        *("n0 -> n1;", "n1 -> n2;", "n2 -> n3;"),
        *("n1 -> n4;", "n3 -> n4;", "n4 -> n5;"),
    }
    assert sum('label="blocks/0/a: dense, 4"' in line for line in lines) == 1


def test_plot_draws_every_node_and_edge_without_overlap():
    arch = dense_arch(4)
    ax = arch.plot()
    nodes = [text for text in ax.texts if text.get_text()]
    assert len(nodes) == len(arch.nodes)
    assert len(ax.texts) - len(nodes) == sum(len(node.preds) for node in arch.nodes)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in nodes]
    for a, b in itertools.combinations(boxes, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)


def test_plot_on_given_axes():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert residual_arch(1).plot(ax) is ax


def test_plot_without_matplotlib_names_the_extra_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError) as caught:
        residual_arch(1).plot()
    message = str(caught.value)
    assert "arch.plot()" in message
    assert 'pip install "hpfree-jax[train]"' in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda arch: pickle.loads(pickle.dumps(arch))],
)
def test_a_copy_equals_its_original(duplicate):
    arch = residual_arch(2)
    same = duplicate(arch)
    assert type(same) is hp.Architecture is hp.architecture.Architecture
    assert same == arch
    assert same.path_depths == arch.path_depths


def test_former_names_of_fields_still_read():
    net = lambda p, x: (x @ p["w"] * p["scale"], p["kept"])
    params = {"w": shape(4, 4), "scale": shape(4), "kept": shape(3)}
    arch = hp.trace_architecture(net, params, shape(1, 4))
    assert arch.others == arch.returned_leaves == ("kept",)
    (vector,) = arch.vectors
    assert vector.how == vector.role == "scale"
