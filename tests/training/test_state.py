import jax
import numpy as np
import pytest

from hpfree_jax.training import resume, train
from hpfree_jax.training._state import prepare

DAG = {"model": "dag_mlp", "dag": "2_12", "depth": None, "width": 16}


@pytest.mark.parametrize(
    "model", ["fcn", pytest.param("lenet5", marks=pytest.mark.slow)]
)
def test_agd_draws_orthogonal_matrices_at_the_scale_of_the_layout(
    config, digits, model
):
    sizes = {"depth": 2, "width": 8} if model == "fcn" else {}
    sizes = {"depth": None, "width": None} | sizes
    _, state = prepare(config(model=model, method="agd", **sizes), digits)
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
    for kernel in kernels:
        *window, d_in, d_out = kernel.shape
        scale = np.sqrt(d_out / d_in) / np.sqrt(np.prod(window))
        flat = np.asarray(kernel).reshape(-1, d_in, d_out)
        singular = np.linalg.svd(flat, compute_uv=False)
        np.testing.assert_allclose(singular, scale, rtol=1e-4)
    for leaf in jax.tree.leaves(state.params):
        assert leaf.ndim > 1 or not np.any(leaf)


def test_principled_draws_follow_in_degrees(config, digits):
    settings = {**DAG, "width": 256, "method": "sgd", "init": "principled"}
    _, state = prepare(config(**settings), digits)
    edges = state.params["edges"]
    for name, in_degree in (("0_to_1", 1), ("1_to_2", 2)):
        std = float(edges[name]["kernel"][...].std())
        assert std == pytest.approx((2 / 256 / in_degree) ** 0.5, rel=0.02)
    readout = state.params["readout"]["kernel"][...]
    assert float(readout.std()) == pytest.approx(2 / 256, rel=0.06)


def test_the_rate_is_scaled_by_the_paths_and_shown(config, digits):
    task, state = prepare(
        config(**DAG, method="sgd", learning_rate=0.4, scale_learning_rate=True), digits
    )
    # One path of 2 layers (node 1 skipped by 0 to 2), one of 4: 8 + 64 against 27.
    expected = 0.4 * (27 / 72) ** 0.5
    rate = float(state.opt_state.hyperparams["learning_rate"])
    assert rate == pytest.approx(expected, rel=1e-6)
    assert task.notes == (f"learning rate: 0.4, scaled to {expected:g}",)


def test_a_resumed_run_keeps_model_initialisation_and_rate(config):
    settings = {**DAG, "method": "sgd", "init": "principled"}
    settings |= {"scale_learning_rate": True, "learning_rate": 0.01}
    whole = train(config("whole", epochs=2, **settings))
    part = train(config("part", epochs=1, **settings))
    resumed = resume(part.directory, {"epochs": 2})
    pairs = zip(
        jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True
    )
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_agd_trains_a_small_cell_network(config):
    settings = {"model": "tiny_network", "cell": "3_00_100", "cells": 1, "channels": 2}
    settings |= {"depth": None, "width": None, "epochs": 1}
    assert train(config(**settings)).test_accuracy is not None
