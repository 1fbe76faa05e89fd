import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import TinyNetwork
from tests.models.abstract import filled

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


def abstract(cell, channels=4, **settings):
    make = lambda: TinyNetwork(3, cell, channels, 10, rngs=nnx.Rngs(0), **settings)
    model = nnx.eval_shape(make)
    model.eval()
    return model


def num_params(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def expected_params(c, cells, ones, threes, affine, bias):
    """The sum over all weights, by hand; ones and threes: convolutions in a cell."""
    norm = 2 * affine  # numbers a channel
    count = 27 * c + norm * c
    for width in (c, 2 * c, 4 * c):
        cell = (ones + 9 * threes) * width**2 + (ones + threes) * norm * width
        count += cells * cell
    for width in (2 * c, 4 * c):  # from half as many channels
        count += 9 * width * width // 2 + 9 * width**2 + width * width // 2
        count += 2 * norm * width
    return count + norm * 4 * c + 4 * c * 10 + bias * 10


@pytest.mark.parametrize(
    ("cell", "ones", "threes"),
    [
        ("3_34_131", 0, 3),
        ("2_32_122", 4, 1),
        ("1_00_100", 0, 0),
        ("3_33_300", 0, 1),  # nodes 1 and 2 feed nothing
        ("0_32_023", 0, 2),  # nothing reaches node 1
    ],
)
@pytest.mark.parametrize(("affine", "bias"), [(True, True), (False, False)])
def test_parameter_counts(cell, ones, threes, affine, bias):
    for cells in (1, 2):
        model = abstract(cell, cells=cells, affine=affine, bias=bias)
        expected = expected_params(4, cells, ones, threes, affine, bias)
        assert num_params(model) == expected


def times(a, b):
    product = collections.Counter()
    for depth, count in a.items():
        for other, number in b.items():
            product[depth + other] += count * number
    return dict(product)


@pytest.mark.parametrize("cell", ["3_34_131", "3_33_133", "4_40_303", "2_14_130"])
@pytest.mark.parametrize("cells", [1, 2])
def test_the_traced_graph_is_that_of_the_cells(cell, cells):
    arch = hp.trace_architecture(abstract(cell, cells=cells), IMAGES)
    one = hp.parse_nas_bench_201(cell).path_depths
    assert arch.subgraph("blocks/0").path_depths == one
    depths = {2: 1}  # stem and classifier
    for _ in range(3 * cells):
        depths = times(depths, one)
    for _ in range(2):
        depths = times(depths, {1: 1, 2: 1})  # shortcut, and two convolutions
    assert arch.path_depths == dict(sorted(depths.items()))


def test_names_of_the_benchmark_mean_the_same_cell():
    names = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|"
    names += "+|skip_connect~0|none~1|skip_connect~2|"
    by_names, by_digits = abstract(names, cells=1), abstract("3_24_101", cells=1)
    assert nnx.graphdef(by_names) == nnx.graphdef(by_digits)


def test_a_pooling_cell_matches_numpy():
    """Averages leave out what lies outside of the image."""
    cell = TinyNetwork(1, "4_00_010", 1, 2, cells=1, rngs=nnx.Rngs(0)).blocks[0]
    image = np.arange(16.0, dtype=np.float32).reshape(4, 4)
    outputs = cell(jnp.asarray(image[None, :, :, None]))[0, :, :, 0]
    for i in range(4):
        for j in range(4):
            window = image[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            np.testing.assert_allclose(outputs[i, j], window.mean(), rtol=1e-6)


def test_it_runs_and_learns_statistics():
    model = filled(lambda: TinyNetwork(1, "3_00_100", 2, 3, cells=1, rngs=nnx.Rngs(0)))
    model.train()
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    before = np.asarray(model.stem_norm.mean[...])
    assert nnx.jit(lambda model, x: model(x))(model, images).shape == (4, 3)
    assert not np.array_equal(before, model.stem_norm.mean[...])


@pytest.mark.parametrize("name", ["in_channels", "channels", "num_classes", "cells"])
def test_a_size_that_is_not_positive_is_named(name):
    sizes = {"in_channels": 3, "channels": 4, "num_classes": 3, "cells": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        TinyNetwork(**sizes, cell="3_34_131", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 6, 3)])
def test_an_image_that_does_not_halve_twice_is_described(shape):
    with pytest.raises(ValueError, match="multiples of 4, got the shape"):
        jax.eval_shape(abstract("3_34_131", cells=1), jnp.zeros((1, *shape)))
