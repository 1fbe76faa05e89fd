import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import MODELS, build_model

SMALL = {"cells": 1, "channels": 2, "affine": False}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bias", [None, True, False])
def test_every_row_builds_runs_and_has_a_layout(name, bias):
    settings = {k: v for k, v in SMALL.items() if k in MODELS[name].settings}
    model = build_model(
        name, (8, 8, 1), 7, {"bias": bias, **settings}, rngs=nnx.Rngs(0)
    )
    model.eval()  # statistics cannot be written from within eval_shape
    shape = jax.eval_shape(model, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert shape.shape == (2, 7)
    params = nnx.state(model, nnx.Param)
    has_bias = any(leaf.ndim == 1 for leaf in jax.tree.leaves(params))
    assert has_bias == (name != "fcn" if bias is None else bias)
    assert hp.infer_layout(params)


def test_settings_and_initialiser_reach_the_model():
    model = build_model(
        "fcn",
        (2, 2, 1),
        3,
        {"depth": 2, "width": 6},
        rngs=nnx.Rngs(0),
        kernel_init=jax.nn.initializers.ones,
    )
    assert [layer.kernel.shape for layer in model.layers] == [(4, 6), (6, 3)]
    assert float(model.layers[1].kernel[...].min()) == 1


@pytest.mark.parametrize(
    ("name", "settings", "shape", "message"),
    [
        ("lenet", {}, (8, 8, 1), "unknown model 'lenet' .did you mean 'lenet5'"),
        ("gpt", {}, (8, 8, 1), "unknown model 'gpt'; choose one of fcn, lenet5, "),
        ("lenet5", {"depth": 3}, (8, 8, 1), "`depth` 3 does not apply to model lenet5"),
        ("fcn", {"depth": 0}, (8, 8, 1), "model fcn: `depth` must be at least 1"),
        ("lenet5", {}, (64, 64, 3), r"at most 32 x 32 .*\(64, 64, 3\)"),
        ("dag_mlp", {"dag": "2_2"}, (8, 8, 1), "model dag_mlp: Node 2 of '2_2' needs"),
        ("dag_mlp", {"cell": "2"}, (8, 8, 1), "`cell` 2 does not apply to model"),
        ("dag_cnn", {"dag": "0"}, (8, 8, 1), "model dag_cnn: No path leads"),
        ("dag_cnn", {"channels": 0}, (8, 8, 1), "`channels` must be at least 1"),
        ("dag_cnn", {}, (64,), r"model dag_cnn: it takes images"),
        ("tiny_network", {"cell": "2_22"}, (8, 8, 1), "model tiny_network: A cell of"),
        ("tiny_network", {}, (6, 8, 1), r"multiples of 4, got the shape \(6, 8, 1\)"),
    ],
)
def test_what_cannot_be_built_is_named(name, settings, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        build_model(name, shape, 10, settings, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
