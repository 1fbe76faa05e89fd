"""How many vectors each weight is applied to, against numbers by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

import hpfree_jax as hp
from hpfree_jax import models
from tests.architecture.drawing import layers, shape

relu = jax.nn.relu


def num_inputs(fn, *args):
    return layers(hp.trace_architecture(fn, *args), "num_inputs")


def abstract(make):
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def conv(x, w, stride=1, padding="SAME"):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


w44, x4 = shape(4, 4), shape(2, 4)
stack3 = shape(3, 4, 4)
tokens = shape(2, 5, dtype=jnp.int32)


def test_fully_connected_counts_the_examples():
    fcn = abstract(
        lambda rngs: models.FCN(9, depth=3, width=7, num_classes=5, rngs=rngs)
    )
    assert list(num_inputs(fcn, shape(128, 3, 3, 1)).values()) == [128, 128, 128]


def test_lenet_counts_the_positions_of_the_output():
    lenet = abstract(lambda rngs: models.LeNet5(10, 1, rngs=rngs))
    assert num_inputs(lenet, shape(8, 32, 32, 1)) == {
        "conv1/kernel": 8 * 28 * 28,
        "conv2/kernel": 8 * 10 * 10,
        "dense1/kernel": 8,
        "dense2/kernel": 8,
        "dense3/kernel": 8,
    }


@pytest.mark.parametrize(
    ("stride", "padding", "side"),
    [(1, "SAME", 9), (2, "SAME", 5), (2, "VALID", 4), (3, "VALID", 3)],
)
def test_strides_and_padding(stride, padding, side):
    net = lambda p, x: conv(x, p["w"], stride, padding)
    found = num_inputs(net, {"w": shape(3, 3, 2, 6)}, shape(4, 9, 9, 2))
    assert found == {"w": 4 * side * side}


def test_grouped_and_depthwise_convolutions():
    class Net(nnx.Module):
        def __init__(self, rngs):
            make = functools.partial(nnx.Conv, padding="VALID", rngs=rngs)
            self.grouped = make(8, 12, (3, 3), feature_group_count=4)
            self.depthwise = make(12, 12, (2, 2), strides=2, feature_group_count=12)

        def __call__(self, x):
            return self.depthwise(relu(self.grouped(x)))

    assert num_inputs(abstract(Net), shape(2, 10, 10, 8)) == {
        "grouped/kernel": 2 * 8 * 8,
        "depthwise/kernel": 2 * 4 * 4,
    }


def test_convolutions_with_a_kernel_for_each_of_a_stack():
    net = lambda p, x: jax.vmap(conv)(jnp.stack([x, 2 * x]), p["w"])
    found = num_inputs(net, {"w": shape(2, 3, 3, 4, 5)}, shape(3, 8, 8, 4))
    assert found == {"w": 3 * 8 * 8}


def test_an_attention_block():
    def net(p, x):
        q, k, v = jnp.split(x @ p["qkv"], 3, -1)
        x = x + jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(q @ k.mT), v) @ p["out"]
        heads = jnp.einsum("btc,chd->bthd", x, p["heads"])
        return jnp.einsum("bthd,hdc->btc", heads, p["merge"])[:, 0] @ p["readout"]

    params = {"qkv": shape(8, 24), "out": shape(8, 8), "heads": shape(8, 2, 4)}
    params |= {"merge": shape(2, 4, 8), "readout": shape(8, 3)}
    assert num_inputs(net, params, shape(3, 5, 8)) == {
        "qkv": 15,
        "out": 15,
        "heads": 15,
        "merge": 15,
        "readout": 3,
    }


def test_weights_cut_before_they_are_used_count_for_each_part():
    def net(p, x):
        q, k, v = (x @ p["qkv"][:, 8 * i : 8 * i + 8] for i in range(3))
        return jax.nn.softmax(q @ k.mT) @ v

    assert num_inputs(net, {"qkv": shape(8, 24)}, shape(3, 5, 8)) == {"qkv": 15}


@pytest.mark.parametrize("scan", [False, True])
def test_a_tied_gpt(scan):
    settings = {"depth": 3, "width": 8, "heads": 2, "context": 16, "scan": scan}
    gpt = models.abstract_model("gpt_char", (6,), 11, settings)
    arch = hp.trace_architecture(gpt, shape(4, 6, dtype=jnp.int32))
    found = layers(arch, "num_inputs")
    assert found.pop("tokens/embedding") == 24 + 24  # lookup and readout
    assert found.pop("positions/embedding") == 6  # looked up once for all examples
    assert set(found.values()) == {24}
    assert len(found) == (4 if scan else 12)


def test_a_stack_of_modules_counts_for_each_slice():
    class Net(nnx.Module):
        def __init__(self, rngs):
            make = nnx.split_rngs(splits=3)(
                nnx.vmap(lambda r: nnx.Linear(4, 4, rngs=r))
            )
            self.blocks = make(rngs)

        def __call__(self, x):
            step = nnx.scan(
                lambda x, block: relu(block(x)),
                in_axes=(nnx.Carry, 0),
                out_axes=nnx.Carry,
            )
            return step(x, self.blocks)

    assert num_inputs(abstract(Net), shape(2, 5, 4)) == {"blocks/kernel": 10}


def test_the_slice_of_a_stack_that_gets_most():
    def net(p, x):
        x = relu(x @ p["w"][0])
        return relu(x @ p["w"][1]) @ p["w"][2] @ p["w"][1]

    assert num_inputs(net, {"w": stack3}, x4) == {"w": 2 + 2}


@pytest.mark.parametrize("over", ["batch", "vmap", "map"])
def test_examples_one_by_one_count_as_a_batch(over):
    def net(p, x):
        batch = lambda images: relu(conv(images, p["c"])) @ p["w"]
        one = lambda image: batch(image[None])[0]
        if over == "batch":
            return batch(x)
        return jax.vmap(one)(x) if over == "vmap" else lax.map(one, x)

    params = {"c": shape(3, 3, 2, 4), "w": shape(4, 3)}
    found = num_inputs(net, params, shape(6, 5, 5, 2))
    assert found == {"c": 6 * 25, "w": 6 * 25}


def test_maps_within_maps():
    rows = lambda p, x: lax.map(lambda y: lax.map(lambda z: relu(z @ p["a"]), y), x)
    net = lambda p, x: rows(p, x) @ p["b"]
    found = num_inputs(net, {"a": w44, "b": w44}, shape(3, 5, 4))
    assert found == {"a": 15, "b": 15}


def test_a_map_over_a_bank_divides_itself_among_its_matrices():
    bank = lambda p, x: lax.map(lambda i: relu(x @ p["w"][i]), jnp.arange(3))
    assert num_inputs(bank, {"w": stack3}, x4) == {"w": 2}

    def picked_before(p, x, i):
        w = p["w"][i]
        return lax.map(lambda row: relu(row @ w), x)

    arch = hp.trace_architecture(
        picked_before, {"w": stack3}, x4, jnp.int32(1), constant_inputs=[1]
    )
    assert layers(arch, "num_inputs") == {"w": 2}


def test_a_recurrent_layer_adds_up_its_steps():
    def net(p, xs):
        step = lambda h, x: (jnp.tanh(x @ p["wx"] + h @ p["wh"]), None)
        return lax.scan(step, jnp.zeros((2, 4)), xs)[0] @ p["head"]

    params = {"wx": shape(3, 4), "wh": w44, "head": shape(4, 2)}
    # Seven steps of two examples; the first state is a constant.
    assert num_inputs(net, params, shape(7, 2, 3)) == {"wx": 14, "wh": 12, "head": 2}


def test_embeddings():
    net = lambda p, t: jax.nn.one_hot(t, 11) @ p["hot"] + p["table"][t]
    params = {"hot": shape(11, 4), "table": shape(11, 4)}
    assert num_inputs(net, params, tokens) == {"hot": 10, "table": 10}

    one_by_one = lambda p, t: jax.vmap(jax.vmap(lambda i: p["table"][i]))(t)
    assert num_inputs(one_by_one, {"table": shape(11, 4)}, tokens) == {"table": 10}
    one = lambda p, i: lax.dynamic_slice(p["table"], (i, 0), (1, 4))
    assert num_inputs(one, {"table": shape(11, 4)}, tokens.update(shape=())) == {
        "table": 1
    }
    stacked = lambda p, t: jax.vmap(lambda table, row: table[row])(p["tables"], t)
    assert num_inputs(stacked, {"tables": shape(2, 11, 4)}, tokens) == {"tables": 5}


def test_experts():
    each = lambda p, x: jnp.einsum("bi,eio->ebo", x * 1.0, p["w"])
    assert num_inputs(each, {"w": stack3}, x4) == {"w": 2}
    stacked = lambda p, x: jax.vmap(jnp.matmul)(jnp.stack([x, x, x]), p["w"])
    assert num_inputs(stacked, {"w": stack3}, x4) == {"w": 2}
    # Seven rows, each of which goes to one of three.
    ragged = lambda p, x: lax.ragged_dot(x, p["w"], jnp.array([1, 2, 4]))
    assert num_inputs(ragged, {"w": stack3}, shape(7, 4)) == {"w": 3}


def test_weights_made_of_several_leaves_count_as_their_product():
    def net(p, x):
        w = p["v"] / jnp.linalg.norm(p["v"], axis=0) * p["g"]
        x = relu(x @ w) @ (p["w"] + p["a"] @ p["b"])
        return relu(x) @ jnp.kron(p["c"], p["d"])

    params = {"v": w44, "g": shape(4), "w": w44, "a": shape(4, 2), "b": shape(2, 4)}
    params |= {"c": shape(2, 3), "d": shape(2, 5)}
    assert num_inputs(net, params, shape(6, 4)) == {"v": 6, "w": 6, "c": 6}


def test_a_matrix_that_is_repeated_meets_more_inputs():
    net = lambda p, x: x @ jnp.kron(jnp.eye(3), p["w"])  # three blocks of four
    arch = hp.trace_architecture(net, {"w": w44}, shape(2, 12))
    assert layers(arch, "fan_in", "fan_out", "num_inputs") == {"w": (12, 4, 6)}

    def broadcast(p, x):
        return jax.vmap(jnp.matmul)(x, jnp.broadcast_to(p["w"], (6, 4, 4)))

    assert num_inputs(broadcast, {"w": w44}, shape(6, 2, 4)) == {"w": 12}


def test_a_product_with_a_constant_is_not_counted():
    net = lambda p, x: x @ p["w"] + jnp.ones((2, 4)) @ p["w"]
    assert num_inputs(net, {"w": w44}, x4) == {"w": 2}


def test_the_operations_are_those_that_xla_counts():
    def net(p, x):
        x = conv(x, p["c"], 2, "VALID")
        return x.reshape(x.shape[0], -1) @ p["w"]

    args = {"c": shape(3, 3, 2, 6), "w": shape(96, 5)}, shape(4, 9, 9, 2)
    arch = hp.trace_architecture(net, *args)
    units = {"c": 6, "w": 5}
    found = sum(2 * x.fan_in * units[x.path] * x.num_inputs for x in arch.layers)
    cost = jax.jit(net).lower(*args).cost_analysis()
    assert cost is not None
    assert found == cost["flops"]


def test_a_subgraph_keeps_it():
    net = lambda p, x: relu(x @ p["m"]["a"]) @ p["b"]
    arch = hp.trace_architecture(net, {"m": {"a": w44}, "b": w44}, shape(6, 4))
    assert layers(arch.subgraph("m"), "num_inputs") == {"m/a": 6}
