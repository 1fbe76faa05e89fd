import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import DagCNN, DagMLP


def num_params(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("dag", "edges"),
    [
        ("2", 1),
        ("2_02_002", 3),
        ("2_12_112", 3),
        ("2_22_222", 6),
        ("2_22_001", 3),  # the last edge is a skip
        ("2_22_200", 1),  # nodes 1 and 2 feed nothing
        ("0_22_012", 2),  # nothing reaches node 1: only 0-2 and 2-3 are left
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_parameter_counts(dag, edges, bias):
    rngs = nnx.Rngs(0)
    model = DagMLP(12, dag, 5, 3, bias=bias, rngs=rngs)
    biases = bias * (5 + edges * 5 + 3)
    assert num_params(model) == 12 * 5 + edges * 5 * 5 + 5 * 3 + biases
    model = DagCNN(2, dag, 4, 3, kernel_size=5, bias=bias, rngs=rngs)
    biases = bias * (4 + edges * 4 + 3)
    assert num_params(model) == 25 * (2 * 4 + edges * 4 * 4) + 4 * 3 + biases


def test_outputs_match_numpy_in_both_layouts():
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    relu = lambda z: np.maximum(z, 0)
    for pre_activation in (False, True):
        model = DagMLP(
            6, "2_12", 4, 2, pre_activation=pre_activation, bias=False, rngs=nnx.Rngs(0)
        )
        w = {k: np.asarray(v.kernel[...], np.float64) for k, v in model.edges.items()}
        stem = x @ np.asarray(model.stem.kernel[...], np.float64)
        if pre_activation:
            first = relu(stem) @ w["0_to_1"]
            last = relu(stem + relu(first) @ w["1_to_2"])
        else:
            first = relu(relu(stem) @ w["0_to_1"])
            last = relu(stem) + relu(first @ w["1_to_2"])
        expected = last @ np.asarray(model.readout.kernel[...], np.float64)
        np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pre_activation", [False, True])
@pytest.mark.parametrize(
    ("dag", "in_degrees"),
    [
        ("2_02_002", [1, 1, 1, 1, 1]),
        ("2_12_022", [1, 1, 2, 2, 2, 1]),
        ("2_12_112_1112", [1, 1, 2, 3, 4, 1]),
        ("0_22_102_2120", [1, 1, 2, 2, 1]),
    ],
)
def test_the_traced_graph_is_that_of_the_string(dag, in_degrees, pre_activation):
    models = [
        lambda rngs: DagMLP(64, dag, 8, 3, pre_activation=pre_activation, rngs=rngs),
        lambda rngs: DagCNN(1, dag, 4, 3, pre_activation=pre_activation, rngs=rngs),
    ]
    for make in models:
        model = nnx.eval_shape(lambda make=make: make(nnx.Rngs(0)))
        inputs = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
        arch = hp.trace_architecture(model, inputs)
        assert arch.path_depths == hp.parse_dag(dag).with_layers(2).path_depths
        assert [layer.in_degree for layer in arch.layers] == in_degrees


@pytest.mark.parametrize("name", ["in_features", "width", "num_classes"])
def test_a_size_that_is_not_positive_is_named(name):
    sizes = {"in_features": 8, "width": 4, "num_classes": 3} | {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        DagMLP(**sizes, dag="2", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["in_channels", "channels", "num_classes"])
def test_a_size_of_a_cnn_that_is_not_positive_is_named(name):
    sizes = {"in_channels": 8, "channels": 4, "num_classes": 3} | {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        DagCNN(**sizes, dag="2", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`kernel_size` must be at least 1, got 0"):
        DagCNN(1, "2", 4, 3, kernel_size=0, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("dag", "message"),
    [("3", "Node 1 .* edge '3'"), ("2_2", "Node 2 .* needs 2"), ("0", "No path")],
)
def test_a_string_that_is_no_dag_is_explained(dag, message):
    with pytest.raises(ValueError, match=message):
        DagMLP(8, dag, 4, 3, rngs=nnx.Rngs(0))
