import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpfree_jax.models import FCN


def num_params(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("depth", "bias", "expected"),
    [
        (1, False, 64 * 10),
        (1, True, 64 * 10 + 10),
        (2, False, 64 * 16 + 16 * 10),
        (4, False, 64 * 16 + 2 * 16 * 16 + 16 * 10),
        (4, True, 64 * 16 + 2 * 16 * 16 + 16 * 10 + 3 * 16 + 10),
    ],
)
def test_parameter_counts(depth, bias, expected):
    model = FCN(64, depth, 16, 10, bias=bias, rngs=nnx.Rngs(0))
    assert num_params(model) == expected
    assert len(model.layers) == depth


def test_outputs_match_a_numpy_recurrence():
    model = FCN(12, 3, 5, 2, bias=True, rngs=nnx.Rngs(0))
    for index, layer in enumerate(model.layers):
        layer.bias[...] = jnp.full(layer.bias.shape, 0.1 * (index + 1))
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)
    h = x.reshape(4, 12).astype(np.float64)
    for index, layer in enumerate(model.layers):
        if index > 0:
            h = np.sqrt(2) * np.maximum(h, 0)
        h = h @ np.asarray(layer.kernel[...], np.float64) + 0.1 * (index + 1)
    np.testing.assert_allclose(model(jnp.asarray(x)), h, rtol=1e-5)


def test_dtypes_of_parameters_and_computation_are_chosen_apart():
    model = FCN(
        8, 2, 4, 3, dtype=jnp.bfloat16, param_dtype=jnp.float16, rngs=nnx.Rngs(0)
    )
    assert model.layers[0].kernel.dtype == jnp.float16
    assert model(jnp.zeros((1, 8), jnp.float32)).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["in_features", "depth", "width", "num_classes"])
def test_a_size_that_is_not_positive_is_named(name):
    sizes = {"in_features": 8, "depth": 2, "width": 4, "num_classes": 3} | {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        FCN(**sizes, rngs=nnx.Rngs(0))
