"""Layouts inferred from names and shapes, written by hand, printed and edited."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hpfree_jax as hp

DENSE_MASK = {"kernel": True, "bias": True}
DENSE = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
NORM = {"scale": jnp.ones(3), "bias": jnp.ones(3)}


def leaders(params, **kwargs):
    layout = hp.infer_layout(params, **kwargs)
    return {name: rule.leader for name, rule in layout.vectors.items()}


class ConvNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List(
            [
                nnx.Conv(3, 4, (5,), rngs=rngs),
                nnx.BatchNorm(4, rngs=rngs),
                nnx.Conv(4, 5, (3, 3), use_bias=False, rngs=rngs),
                nnx.Conv(5, 6, (3, 3, 3), rngs=rngs),
                nnx.Embed(10, 6, rngs=rngs),
                nnx.Linear(6, 7, rngs=rngs),
                nnx.LayerNorm(7, rngs=rngs),
            ]
        )


def abstract_params():
    return nnx.state(nnx.eval_shape(lambda: ConvNet(nnx.Rngs(0))), nnx.Param)


def test_flax_nnx_modules_in_a_list():
    params = abstract_params()
    layout = hp.infer_layout(params)
    assert layout == hp.Layout(
        {
            "layers/0/kernel": hp.Matrix(1, 2, position_axes=0),
            "layers/0/bias": hp.Vector("layers/0/kernel"),
            "layers/1/scale": hp.Vector("layers/0/kernel"),
            "layers/1/bias": hp.Vector("layers/0/kernel"),
            "layers/2/kernel": hp.Matrix(2, 3, position_axes=(0, 1)),
            "layers/3/kernel": hp.Matrix(3, 4, position_axes=(0, 1, 2)),
            "layers/3/bias": hp.Vector("layers/3/kernel"),
            "layers/4/embedding": hp.Matrix(0, 1),
            "layers/5/kernel": hp.Matrix(0, 1),
            "layers/5/bias": hp.Vector("layers/5/kernel"),
            "layers/6/scale": hp.Vector("layers/5/kernel"),
            "layers/6/bias": hp.Vector("layers/5/kernel"),
        }
    )
    assert layout["layers/2/kernel"].fans((3, 3, 4, 5)) == (4, 5, 9)


def test_abstract_params_have_the_same_layout():
    abstract = abstract_params()
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    assert hp.infer_layout(abstract) == hp.infer_layout(params)


def test_flax_linen_sequential_reads_numbers_as_numbers():
    model = nn.Sequential([nn.LayerNorm() if i % 2 else nn.Dense(2) for i in range(12)])
    params = model.init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    assert leaders(params)["layers_11/scale"] == "layers_10/kernel"
    assert leaders(params)["layers_3/bias"] == "layers_2/kernel"


@pytest.mark.parametrize("container", [list, tuple])
def test_the_leader_is_the_own_matrix_else_the_nearest_before(container):
    params = container([DENSE, NORM, {"inner": [NORM, DENSE]}, {"gamma": jnp.ones(())}])
    assert leaders(params) == {
        "0/bias": "0/kernel",
        "1/scale": "0/kernel",
        "1/bias": "0/kernel",
        "2/inner/0/scale": "0/kernel",
        "2/inner/0/bias": "0/kernel",
        "2/inner/1/bias": "2/inner/1/kernel",
        "3/gamma": "2/inner/1/kernel",
    }


def test_equinox_fields_keep_their_order():
    class Block(eqx.Module):
        out: dict
        middle: dict
        begin: dict

    assert leaders(Block(out=DENSE, middle=NORM, begin=DENSE)) == {
        "out/bias": "out/kernel",
        "middle/scale": "out/kernel",
        "middle/bias": "out/kernel",
        "begin/bias": "begin/kernel",
    }


def test_masked_none_and_integer_leaves_are_left_out():
    params = {
        "a": DENSE,
        "b": {**DENSE, "kernel": optax.MaskedNode()},
        "c": {"table": jnp.arange(4).reshape(2, 2), "nothing": None},
        "key": jax.random.key(0),
    }
    layout = hp.infer_layout(params)
    assert list(layout) == ["a/bias", "a/kernel", "b/bias"]
    assert layout["b/bias"].leader == "a/kernel"  # as if b/kernel had been deleted


def test_overrides_are_used_as_they_are():
    params = {"query": {"kernel": jnp.ones((8, 2, 4)), "bias": jnp.ones((2, 4))}}
    rules = {
        "query/kernel": hp.Matrix(0, (1, 2)),
        "query/bias": hp.Vector("query/kernel"),
    }
    assert hp.infer_layout(params, overrides=rules) == hp.Layout(rules)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"query": {"kernel": jnp.ones((8, 2, 4))}}, "`query/kernel`.*attention's"),
        ({"attn": {"0": {"kernel": jnp.ones((8, 2, 4))}}}, "`attn/0/kernel`"),
        (
            {"a": {"kernel": jnp.ones((8, 2, 4)), "bias": jnp.ones((2, 4))}},
            "`a/bias` of shape .*several axes",
        ),
        ({"convformer": {"query": {"kernel": jnp.ones((8, 2, 4))}}}, "`convformer/que"),
        ({"SelfAttention_0": {"x": {"kernel": jnp.ones((8, 2, 4))}}}, "attention's"),
        ({"layers": {"Dense_0": {"kernel": jnp.ones((4, 3, 2))}}}, "a stack's"),
        ({"layer": {"weight": jnp.ones((3, 2))}}, r"`layer/weight`.*\(out, in"),
        ({"stacked": {"scale": jnp.ones((3, 2))}}, "`stacked/scale`"),
        ({"position": jnp.ones((1, 3, 2))}, "`position` of shape"),
        ({"kernel": jnp.ones((1,) * 6)}, "`kernel` of shape"),
        ([NORM, DENSE], "`0/bias`.*no matrix comes before"),
        ({"w1": jnp.ones((2, 2)), "w2": jnp.ones((2, 2)), "b": jnp.ones(2)}, "several"),
        ({"fc1": DENSE, "fc2": DENSE, "norm1": NORM}, "`norm1/bias`.*sorts the keys"),
        ({"Dense_0": DENSE, "Dense_1": DENSE, "LayerNorm_0": NORM}, "`LayerNorm_0/bi"),
    ],
)
def test_an_ambiguous_leaf_is_named_and_the_remedy_given(params, message):
    with pytest.raises(ValueError, match=message) as error:
        hp.infer_layout(params)
    assert "overrides={" in str(error.value)


def test_flax_attention_raises():
    attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="ambiguous"):
        hp.agd().init(nnx.state(attention, nnx.Param))


def test_a_convolution_may_be_called_out():
    params = {"out_conv": {"kernel": jnp.ones((3, 2, 4))}}
    assert hp.infer_layout(params)["out_conv/kernel"].position_axes == (0,)


def test_overrides_of_unknown_leaves_are_named():
    with pytest.raises(ValueError, match=r"`0/kernal`.*did you mean `0/kernel`"):
        hp.infer_layout([DENSE], overrides={"0/kernal": None})


LAYOUT = hp.Layout(
    {
        "conv": hp.Matrix(in_axes=2, out_axes=3, position_axes=(0, 1)),
        "bias": hp.Vector(leader="conv"),
        "frozen": None,
    }
)


def test_a_layout_prints_as_the_code_that_makes_it():
    names = {"Layout": hp.Layout, "Matrix": hp.Matrix, "Vector": hp.Vector}
    assert eval(repr(LAYOUT), names) == LAYOUT
    assert "conv': Matrix(in_axes=(2,), out_axes=(3,), position_axes=(0, 1))" in str(
        LAYOUT
    )


def test_layouts_compare_by_their_rules_and_hash():
    same = hp.Layout(dict(reversed(list(LAYOUT.items()))))
    assert same == LAYOUT
    assert hash(same) == hash(LAYOUT)
    assert LAYOUT | {"frozen": hp.Vector("conv")} != LAYOUT


def test_editing_leaves_the_original_alone():
    fused = dataclasses.replace(LAYOUT["conv"], scale_divisor=3, depth_count=3)
    edited = LAYOUT | {"conv": fused}
    assert edited["conv"].depth_count == 3
    assert LAYOUT["conv"].depth_count == 1
    with pytest.raises(TypeError):
        LAYOUT["conv"] = fused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hp.Matrix(-1, 0), "`in_axes` must be counted from the front"),
        (lambda: hp.Matrix(0, 1, scale_divisor=0), "`scale_divisor` must be positive"),
        (lambda: hp.Matrix(0, 1, depth_count=-1), "`depth_count` must be an integer"),
        (lambda: hp.Matrix(0, 1, depth_count=0.5), "`depth_count` must be an integer"),
        (lambda: hp.Matrix(0.0, 1), "`in_axes` must be integers, got 0.0"),
        (lambda: hp.Matrix(2, 3, stack_axes=(1, 0)), "`stack_axes` must ascend"),
        (lambda: LAYOUT | {"b": hp.Vector("con")}, "`con`.*did you mean `conv`"),
        (lambda: LAYOUT | {"b": hp.Vector("bias")}, "must be a Matrix, but `bias`"),
        (lambda: LAYOUT | {"b": hp.Vector("conv", 0)}, "1 stack axes but its leader"),
        (lambda: LAYOUT | {"b": "conv"}, "The rule of `b` must be"),
        (lambda: LAYOUT | {("b",): None}, "must be a string"),
    ],
)
def test_bad_rules_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"kernel": hp.Matrix(0, 1)}, "no rule for the parameter `bias`"),
        ({"kernel": hp.Matrix(0, 0), "bias": None}, "each of the 2 axes"),
        ({"kernel": hp.Matrix(0, (1, 2)), "bias": None}, "each of the 2 axes"),
        ({"kernel": hp.Matrix(0, 1), "bias": None, "c": None}, "a rule for `c`, which"),
        (
            {"kernel": hp.Matrix((), 1, stack_axes=0), "bias": hp.Vector("kernel", 0)},
            "stacks .3,. layers but its leader `kernel` stacks .2,.",
        ),
        (
            {"kernel": hp.Matrix((), 1, stack_axes=0), "bias": hp.Vector("kernel", 1)},
            r"has the stack axes \(1,\), but its shape",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        hp.agd(layout=hp.Layout(layout)).init(DENSE)


TWO = {"a": DENSE, "b": DENSE}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.masked(tx, {"a": True, "b": False}),
        lambda tx: optax.masked(tx, {"a": DENSE_MASK, "b": False}),
        lambda tx: optax.partition(
            {"x": tx, "y": optax.set_to_zero()}, {"a": "x", "b": "y"}
        ),
    ],
)
def test_a_whole_layout_fits_parameters_of_which_branches_are_masked(wrap):
    tx = wrap(hp.agd(layout=hp.infer_layout(TWO)))
    updates, _ = tx.update(TWO, tx.init(TWO), TWO)
    alone, _ = hp.agd().update(DENSE, hp.agd().init(DENSE), DENSE)
    np.testing.assert_allclose(updates["a"]["kernel"], alone["kernel"], rtol=1e-6)


def test_a_whole_layout_fits_parameters_of_which_branches_are_none():
    tx = hp.agd(layout=hp.infer_layout(TWO))
    for partial in (
        {"a": DENSE, "b": None},
        {"a": DENSE, "b": {**DENSE, "bias": None}},
    ):
        updates, _ = tx.update(partial, tx.init(partial), partial)
        assert jax.tree.structure(updates) == jax.tree.structure(partial)


def test_names_that_are_not_unique_are_refused():
    params = {"a/kernel": jnp.ones((2, 2)), "a": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(
        ValueError, match="2 leaves of the tree have the name `a/kernel`"
    ):
        hp.infer_layout(params)


def test_a_field_called_value_keeps_its_name():
    class Attention(eqx.Module):
        value: jax.Array
        bias: jax.Array

    layout = hp.infer_layout({"attn": Attention(jnp.ones((2, 2)), jnp.ones(2))})
    assert layout["attn/bias"].leader == "attn/value"


def test_a_leader_that_is_masked_out_is_named():
    layout = hp.infer_layout(DENSE)
    tx = optax.masked(hp.agd(layout=layout), {"kernel": False, "bias": True})
    with pytest.raises(
        ValueError, match="`bias` follows `kernel`, which is masked out"
    ):
        tx.init(DENSE)
    optax.masked(hp.agd(layout=layout), {"kernel": True, "bias": False}).init(DENSE)
