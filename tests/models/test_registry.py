import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import MODELS, build_model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bias", [None, True, False])
def test_every_row_builds_runs_and_has_a_layout(name, bias):
    model = build_model(name, (8, 8, 1), 7, {"bias": bias}, rngs=nnx.Rngs(0))
    shape = jax.eval_shape(model, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert shape.shape == (2, 7)
    params = nnx.state(model, nnx.Param)
    has_bias = any(leaf.ndim == 1 for leaf in jax.tree.leaves(params))
    assert has_bias == (name == "lenet5" if bias is None else bias)
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
        ("mlp", {}, (8, 8, 1), "unknown model 'mlp'; choose one of fcn, lenet5"),
        ("lenet5", {"depth": 3}, (8, 8, 1), "`depth` 3 does not apply to model lenet5"),
        ("fcn", {"depth": 0}, (8, 8, 1), "model fcn: `depth` must be at least 1"),
        ("lenet5", {}, (64, 64, 3), r"at most 32 x 32 .*\(64, 64, 3\)"),
    ],
)
def test_what_cannot_be_built_is_named(name, settings, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        build_model(name, shape, 10, settings, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
