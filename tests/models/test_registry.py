import jax
import pytest
from flax import nnx

from hpfree_jax.models import MODELS, abstract_model, build_model


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, row in MODELS.items()
        if "bias" in row.settings and row.parameters < 12e6
    ],
)
def test_biases_and_affine_parameters_can_be_left_out(name):
    row = MODELS[name]
    shallow = 10 if "growth" in row.settings else None
    chosen = {"bias": False, "affine": False, "depth": shallow}
    settings = {key: value for key, value in chosen.items() if key in row.settings}
    kept = nnx.state(abstract_model(name, settings=settings), nnx.Param)
    assert all(leaf.ndim > 1 for leaf in jax.tree.leaves(kept))


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


def test_an_abstract_model_has_the_shapes_of_the_one_that_is_built():
    settings = {"depth": 1, "width": 6, "heads": 2, "context": 4, "scan": True}
    real = build_model("gpt_char", (4,), 5, settings, rngs=nnx.Rngs(0))
    real.eval()
    abstract = abstract_model("gpt_char", (4,), 5, settings)
    shapes = lambda model: jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), nnx.state(model)
    )
    assert shapes(real) == shapes(abstract)


@pytest.mark.parametrize(
    ("name", "settings", "shape", "message"),
    [
        ("lenet", {}, (8, 8, 1), "unknown model 'lenet' .did you mean 'lenet5'"),
        ("bert", {}, (8, 8, 1), "unknown model 'bert'; choose one of fcn, lenet5, "),
        ("lenet5", {"depth": 3}, (8, 8, 1), "`depth` 3 does not apply to model lenet5"),
        ("fcn", {"depth": 0}, (8, 8, 1), "model fcn: `depth` must be at least 1"),
        ("lenet5", {}, (64, 64, 3), r"at most 32 x 32 .*\(64, 64, 3\)"),
        ("dag_mlp", {"dag": "2_2"}, (8, 8, 1), "model dag_mlp: Node 2 of '2_2' needs"),
        ("dag_mlp", {"cell": "2"}, (8, 8, 1), "`cell` 2 does not apply to model"),
        ("dag_cnn", {"dag": "0"}, (8, 8, 1), "model dag_cnn: No path leads"),
        ("dag_cnn", {"channels": 0}, (8, 8, 1), "`channels` must be at least 1"),
        ("dag_cnn", {}, (64,), r"model dag_cnn: images must be .*\(64,\)"),
        ("tiny_network", {"cell": "2_22"}, (8, 8, 1), "model tiny_network: A cell of"),
        ("tiny_network", {}, (6, 8, 1), r"multiples of 4, got the shape \(6, 8, 1\)"),
        ("resnet50", {}, (256,), r"model resnet50: images must .*\(256,\)"),
        ("resnet50", {"channels": 0}, (8, 8, 3), "`channels` must be at least 1"),
        ("wide_resnet", {"depth": 27}, (8, 8, 3), "multiple of 6 plus 4 .* got 27"),
        ("wide_resnet", {"dropout": 1.0}, (8, 8, 3), r"`dropout` must lie in \[0, 1\)"),
        ("densenet_bc", {"depth": 4}, (8, 8, 3), "`depth` must be a multiple .* got 4"),
        ("densenet_bc", {}, (3, 8, 3), r"at least 4 x 4 pixels, got .*\(3, 8, 3\)"),
        ("efficientnet_b0", {"drop_path": -0.1}, (8, 8, 3), "`drop_path` must lie in"),
        ("gpt_char", {}, (8, 8, 3), r"at most `context` = 256 tokens .*\(8, 8, 3\)"),
        ("gpt2", {}, (1025,), r"at most `context` = 1024 tokens .*\(1025,\)"),
        ("gpt2", {"heads": 7}, (8,), "`width` must be a multiple of `heads`, got 768"),
        ("gpt2", {"depth": 0}, (8,), "`depth` must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built_is_named(name, settings, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        build_model(name, shape, 10, settings, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
