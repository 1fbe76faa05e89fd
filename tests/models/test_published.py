"""Every model of the table against published numbers, without any computation."""

import math

import jax
import jax.extend
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import MODELS, abstract_model
from tests.models.paths import power, times

# Torchvision's counts for ImageNet, those of kuangliu's pytorch-cifar for small images,
# meliketoy's for WRN-28-10, the authors' for DenseNet-BC (0.8M) and EfficientNet-B0
# (5.3M), Hugging Face's for GPT-2. nanoGPT prints 10.65M for characters, without the
# 256 * 384 numbers of the positions.
PARAMETERS = {
    "lenet5": 61_706,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet18_cifar": 11_173_962,
    "resnet50_cifar": 23_520_842,
    "preact_resnet18": 11_171_146,
    # By hand, from ResNet-50: the stem (128) and the shortcuts (7,680) lose their
    # normalisation, and each block normalises its input where it did its output, which
    # exchanges the 2,048 channels of the last output for the 64 of the first input.
    "preact_resnet50": 23_520_842 - 128 - 7_680 - 2 * (2_048 - 64),
    "wide_resnet": 36_479_194,
    "densenet_bc": 769_162,
    "efficientnet_b0": 5_288_548,
    "gpt_char": 10_646_784 + 256 * 384,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
}

# 10^9 multiplications for one image of the source's size, as printed: torchvision's
# table for ImageNet; common figures for the others.
MULTIPLICATIONS = {
    "resnet18": "1.81",
    "resnet34": "3.66",
    "resnet50": "4.09",  # 3.8 if the stride were in the convolution 1x1
    "resnet101": "7.80",
    "resnet152": "11.51",
    "efficientnet_b0": "0.39",
    "resnet18_cifar": "0.56",
    "wide_resnet": "5.2",
    "densenet_bc": "0.29",
}

ENDS = {2: 1}  # stem and classifier, or the two uses of the table of tokens


def residual(branch, plain, projected):
    """Blocks of so many layers beside an identity, or beside a projection."""
    return times(
        ENDS, power({0: 1, branch: 1}, plain), power({1: 1, branch: 1}, projected)
    )


GATE = {0: 1, 2: 1}  # the signal itself, and two layers of its gate
PATHS = {
    "resnet18": residual(2, 5, 3),
    "resnet34": residual(2, 13, 3),
    "resnet50": residual(3, 12, 4),
    "resnet101": residual(3, 29, 4),
    "resnet152": residual(3, 46, 4),
    "resnet18_cifar": residual(2, 5, 3),
    "resnet50_cifar": residual(3, 12, 4),
    "preact_resnet18": residual(2, 5, 3),
    "preact_resnet50": residual(3, 12, 4),
    "wide_resnet": residual(2, 9, 3),
    # 48 blocks keep their input beside what two layers make of it; two transitions.
    "densenet_bc": times(ENDS, power({0: 1, 2: 1}, 48), {2: 1}),
    # Expand (not in the first block), filter, gate, project; nine blocks have a skip.
    "efficientnet_b0": times(
        ENDS,
        {1: 1},  # the head
        times({2: 1}, GATE),
        power(times({3: 1}, GATE), 6),
        power({0: 1, 3: 1, 5: 1}, 9),
    ),
    # The fused projections make attention a branch of two layers, like the dense ones.
    "gpt_char": residual(2, 2 * 6, 0),
    "gpt2": residual(2, 2 * 12, 0),
    "gpt2_medium": residual(2, 2 * 24, 0),
    "gpt2_large": residual(2, 2 * 36, 0),
    "gpt2_xl": residual(2, 2 * 48, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_published_one(name):
    row, model = MODELS[name], abstract_model(name)
    params = nnx.state(model, nnx.Param)
    leaves = jax.tree.leaves(params)
    assert sum(leaf.size for leaf in leaves) == row.parameters
    assert row.parameters == PARAMETERS.get(name, row.parameters)

    arch = hp.trace_architecture(model, row.example())
    assert arch.path_depths == PATHS.get(name, arch.path_depths)
    assert len(arch.layout(params)) == len(leaves)
    if not row.takes_tokens:  # whose table of tokens is not the first in the tree
        assert hp.infer_layout(params)
    if name in MULTIPLICATIONS:
        printed = MULTIPLICATIONS[name]
        digits = len(printed.split(".")[1])
        found = count_multiplications(model, row) / 1e9
        assert found == pytest.approx(float(printed), abs=0.6 * 10**-digits)


def test_numbers_of_paths():
    """As published by the paper on scaling, and in this library's documentation."""
    totals = {name: sum(depths.values()) for name, depths in PATHS.items()}
    assert (totals["resnet18"], totals["resnet50"]) == (256, 65_536)
    assert (totals["resnet152"], totals["gpt2_xl"]) == (2**50, 2**96)


def count_multiplications(model, row):
    """Of convolutions and dense layers, for one image."""
    graph, state = nnx.split(model)
    apply = lambda state, x: nnx.merge(graph, state)(x)
    closed = jax.make_jaxpr(apply)(state, row.example(batch_size=1))
    assert [out.shape for out in closed.out_avals] == [(1, row.num_classes)]
    return sum(multiplications(eqn) for eqn in walk(closed.jaxpr))


def multiplications(eqn):
    kernel = eqn.invars[1].aval.shape
    outputs = math.prod(eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "conv_general_dilated":
        return outputs * math.prod(kernel[:-1])
    (_, contracted), _ = eqn.params["dimension_numbers"]
    return outputs * math.prod(kernel[axis] for axis in contracted)


def walk(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from walk(inner)
