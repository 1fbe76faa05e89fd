"""Strings of the paper's DAGs and of NAS-Bench-201, against the published code."""

import numpy as np
import pytest

import hpfree_jax as hp
from tests.architecture.drawing import dag_mlp, shape
from tests.reference import load_case


def histogram(dag, length):
    return [dag.path_depths.get(depth, 0) for depth in range(length)]


def join(digits):
    """(2, 0, 2, 0, 0, 2) -> "2_02_002"."""
    groups, start = [], 0
    for size in range(1, len(digits) + 1):
        groups.append("".join(map(str, digits[start : start + size])))
        start += size
        if start == len(digits):
            return "_".join(groups)


def test_a_diamond_drawn_by_hand():
    # 0 -> 1 -> 3 with two layers, 0 -> 2 -> 3 a layer and a skip, 0 -> 3 a skip.
    dag = hp.parse_dag("2_20_121")
    assert dag.path_depths == {0: 1, 1: 1, 2: 1}
    assert dag.in_degrees == (1, 1, 3)
    assert (dag.num_paths, dag.sum_cubed_depths) == (3, 0 + 1 + 8)
    assert dag.with_layers(2).path_depths == {2: 1, 3: 1, 4: 1}
    assert dag.with_layers(2).in_degrees == dag.in_degrees


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_dags_of_five_nodes_match_the_published_code(stride):
    settings, arrays = load_case("principled", "dags_N5")
    depths = np.arange(5)
    compared = 0
    for row in range(0, len(arrays["codes"]), stride):
        code = join(arrays["codes"][row])
        expected = arrays["depth_hist_all_paths"][row]
        if not expected.any():
            with pytest.raises(ValueError, match="No path leads from node 0 to node 4"):
                hp.parse_dag(code)
            continue
        dag = hp.parse_dag(code)
        assert histogram(dag, 5) == list(expected)
        # Theirs brackets the nodes by the stem and the readout.
        assert [1, *dag.in_degrees, 1] == list(arrays["in_degree"][row])
        # Deviation: paths of skips alone are as many as they are, not one.
        if expected @ depths == 0:
            assert list(arrays["depth_hist"][row]) == [1, 0, 0, 0, 0]
            continue
        # Deviation: theirs adds 3 layers, one more than there are.
        theirs = dag.with_layers(3)
        assert theirs.sum_cubed_depths == arrays["sum_cubes"][row]
        scale = lambda k, dag=theirs: hp.scale_learning_rate(
            settings["base_lr"], dag, kernel_size=k
        )
        np.testing.assert_allclose(scale(3), arrays["lr_mlp"][row], rtol=1e-14)
        for k in (3, 5, 7):
            np.testing.assert_allclose(
                scale(k), arrays[f"lr_cnn_k{k}"][row], rtol=1e-14
            )
        compared += 1
    assert compared > 1500 * 31 / stride


def test_dags_of_four_nodes_match_the_published_code():
    settings, arrays = load_case("principled", "dags_4_nodes")
    for row, code in enumerate(settings["codes"]):
        if code.endswith("000") or not arrays["depth_hist"][row] @ np.arange(4):
            continue
        dag = hp.parse_dag(code)
        assert histogram(dag, 4) == list(arrays["depth_hist"][row])
        assert [1, *dag.in_degrees, 1] == list(arrays["in_degree"][row])
        rate = hp.scale_learning_rate(settings["base_lr"], dag.with_layers(3))
        np.testing.assert_allclose(rate, arrays["lr_mlp"][row], rtol=1e-14)


def test_cells_match_the_published_code():
    settings, arrays = load_case("principled", "cells_201")
    for row, code in enumerate(settings["codes"]):
        if not settings["depth_lists"][row]:
            with pytest.raises(ValueError, match="No path leads from node 0 to node 3"):
                hp.parse_nas_bench_201(code)
            continue
        cell = hp.parse_nas_bench_201(code)
        theirs = cell.with_layers(1)  # the stem
        assert histogram(theirs, 5) == list(arrays["depth_hist"][row])
        assert theirs.sum_cubed_depths == arrays["sum_cubes"][row]
        assert [1, *cell.in_degrees, 1] == list(arrays["in_degree"][row])
        rate = hp.scale_learning_rate(settings["base_lr"], theirs, base_depths=[1])
        np.testing.assert_allclose(rate, arrays["lr_tiny"][row], rtol=1e-14)


def test_tracing_a_network_counts_the_paths_of_its_string():
    settings, _ = load_case("principled", "dags_4_nodes")
    traced = 0
    for code in settings["codes"]:
        if any(group.strip("0") in ("", "1") for group in code.split("_")):
            continue  # zero, or the same as another node: x + x is no second path
        net, params = dag_mlp(code, 2, layout="equation 1")
        try:
            dag = hp.parse_dag(code)
            arch = hp.trace_architecture(
                lambda p, x, net=net: net(p, x)[1] @ p["head"],
                params | {"head": shape(2, 2)},
                shape(1, 2),
            )
        except ValueError:  # no path, or a layer that no path reaches
            continue
        assert arch.path_depths == dag.with_layers(2).path_depths
        traced += 1
    assert traced > 20


def test_both_forms_of_a_cell_are_the_same():
    names = (
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|"
        "+|skip_connect~0|none~1|nor_conv_3x3~2|"
    )
    cell, same = hp.parse_nas_bench_201(names), hp.parse_nas_bench_201("3_24_103")
    assert cell.digits == same.digits == "3_24_103"
    assert cell.path_depths == same.path_depths == {0: 1, 2: 2}
    assert cell.in_degrees == same.in_degrees == (1, 2, 2)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("2_03_002", "Node 2 of '2_03_002' has the edge '3' from node 1"),
        ("2_0_002", "Node 2 of '2_0_002' needs 2 digit"),
        ("", "Node 1 of '' needs 1 digit"),
        ("2_00_001", r"No path .* node 3 in '2_00_001': node\(s\) 2, 3 cannot"),
    ],
)
def test_a_bad_dag_names_the_node(code, message):
    with pytest.raises(ValueError, match=message):
        hp.parse_dag(code)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("3_35_131", "Node 2 of '3_35_131' has the edge '5'"),
        ("3_34", "has 2 groups"),
        ("|conv~0|+|none~0|+|none~0|", "Node 1 of .* has the edge 'conv~0'"),
        ("|none~1|+|none~0|+|none~0|", "Node 1 of .* has the edge 'none~1'"),
        ("|none~0|+|none~0|none~0|+|none~0|", "Node 2 of .* lists an earlier node"),
    ],
)
def test_a_bad_cell_names_the_node(code, message):
    with pytest.raises(ValueError, match=message):
        hp.parse_nas_bench_201(code)


def test_wrong_types_and_layers():
    with pytest.raises(TypeError, match="`code` must be a string"):
        hp.parse_dag(2)
    with pytest.raises(ValueError, match="`num_layers` must be an integer"):
        hp.parse_dag("2").with_layers(-1)
