import json
import math

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hpfree_jax as hp
from hpfree_jax.initializers import architecture_aware
from tests.architecture.drawing import dag_mlp, layers, shape
from tests.reference import SHARED

relu = jax.nn.relu


def drawn(fn, params, *inputs, seed=0, **kwargs):
    arch = hp.trace_architecture(fn, params, *inputs)
    return hp.initialize(jax.random.key(seed), params, arch, **kwargs)


def assert_std(leaf, expected):
    tolerance = 4 / math.sqrt(2 * leaf.size)  # four standard errors
    np.testing.assert_allclose(np.std(leaf), expected, rtol=tolerance)


def test_standard_deviations_by_hand():
    def net(p, x):
        x = relu(x @ p["stem"] + p["bias"])
        x = x + relu(x @ p["a"]) @ p["b"] + x @ p["c"]
        return x * p["scale"] * (1 + p["offset"]) @ p["head"]

    params = {"stem": shape(32, 64), "bias": shape(64), "a": shape(64, 96)}
    params |= {"b": shape(96, 64), "c": shape(64, 64), "scale": shape(64)}
    params |= {"offset": shape(64), "head": shape(64, 50, dtype=jnp.bfloat16)}
    p = drawn(net, params, shape(1, 32))
    assert_std(p["stem"], math.sqrt(2 / 32))
    assert_std(p["a"], math.sqrt(2 / 64))
    assert_std(p["b"], math.sqrt(2 / (96 * 3)))  # a sum of three branches
    assert_std(p["c"], math.sqrt(2 / (64 * 3)))
    assert_std(p["head"].astype(float), 2 / 64)
    assert {k: v.dtype for k, v in p.items()} == {k: v.dtype for k, v in params.items()}
    assert (p["bias"] == 0).all()
    assert (p["scale"] == 1).all()
    assert (p["offset"] == 0).all()


def test_the_choices_of_the_original_by_name():
    def net(p, x):
        x = x @ p["a"] + x @ p["b"]
        return relu(relu(x) @ p["c"]) @ p["head"]

    params = {"a": shape(16, 64), "b": shape(16, 64), "c": shape(64, 96)}
    params |= {"head": shape(96, 40)}
    p = drawn(net, params, shape(1, 16), fan="fan_out", degree="source")
    assert_std(p["a"], math.sqrt(2 / 64))
    assert_std(p["c"], math.sqrt(2 / (96 * 2)))
    assert_std(p["head"], 2 / 40)


def test_convolutions_count_their_window_and_groups():
    conv = lambda x, w, groups: jax.lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    net = lambda p, x: conv(conv(x, p["a"], 4), p["b"], 1).mean((1, 2)) @ p["c"]
    params = {"a": shape(3, 3, 8, 64), "b": shape(5, 5, 64, 8), "c": shape(8, 3)}
    p = drawn(net, params, shape(1, 8, 8, 32))
    assert_std(p["a"], math.sqrt(2 / (8 * 9)))
    assert_std(p["b"], math.sqrt(2 / (64 * 25)))
    p = drawn(net, params, shape(1, 8, 8, 32), fan="fan_out")
    assert_std(p["a"], math.sqrt(2 / (64 / 4 * 9)))


def test_embeddings_sum_one_row_and_tied_ones_are_readouts():
    tokens = shape(2, 5, dtype=jnp.int32)
    params = {"token": shape(300, 16), "place": shape(5, 16), "head": shape(16, 300)}

    def net(p, t):
        return (p["token"][t] + p["place"][jnp.arange(5)]) @ p["head"]

    p = drawn(net, params, tokens)
    assert_std(p["token"], math.sqrt(2 / 2))
    assert_std(p["head"], 2 / 16)
    tied = lambda p, t: jnp.tanh(p["token"][t]) @ p["token"].T
    p = drawn(tied, {"token": shape(300, 16)}, tokens)
    assert_std(p["token"], 2 / 16)


def test_low_rank_products():
    params = {"w": shape(64, 64), "a": shape(64, 8), "b": shape(8, 64)}
    params |= {"head": shape(64, 2)}
    adapted = lambda p, x: relu(x @ (p["w"] + p["a"] @ p["b"])) @ p["head"]
    p = drawn(adapted, params, shape(1, 64))
    assert_std(p["w"], math.sqrt(2 / 64))
    assert_std(p["a"], math.sqrt(1 / 64))
    assert (p["b"] == 0).all()
    del params["w"]
    product = lambda p, x: relu(x @ (p["a"] @ p["b"])) @ p["head"]
    p = drawn(product, params, shape(1, 64))
    assert_std(p["a"], math.sqrt(1 / 64))
    assert_std(p["b"], math.sqrt(2 / 8))


def test_scheme_agd_draws_semi_orthogonal_matrices_at_the_scale_of_the_layout():
    def net(p, x):
        q, k, v = jnp.split(x @ p["qkv"] + p["bias"], 3, -1)
        return (q * k * v) @ p["out"]

    params = {"qkv": shape(8, 24), "bias": shape(24), "out": shape(8, 4)}
    p = drawn(net, params, shape(1, 8), scheme="agd")
    singular = lambda w: np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(singular(p["qkv"]), math.sqrt(24 / (3 * 8)), rtol=1e-5)
    np.testing.assert_allclose(singular(p["out"]), math.sqrt(4 / 8), rtol=1e-5)
    assert (p["bias"] == 0).all()


def test_a_scaled_shift_does_not_start_dead():
    def net(p, x):
        return x @ p["w"] + jax.nn.standardize(p["place"]) * p["scale"]

    params = {"w": shape(4, 6), "place": shape(3, 6), "scale": shape(6)}
    p = drawn(net, params, shape(3, 4))
    assert (p["place"] == 0).all()
    assert (p["scale"] == 1).all()


def test_frozen_dicts_integers_and_none_pass_through():
    net = flax.linen.Dense(3)
    params = jax.eval_shape(net.init, jax.random.key(0), shape(1, 4))["params"]
    params = flax.core.freeze(params)
    tree = {"dense": params, "step": jnp.int32(7), "none": None}
    fn = lambda p, x: net.apply({"params": p["dense"]}, x)
    p = drawn(fn, tree, shape(1, 4))
    assert jax.tree.structure(p) == jax.tree.structure(tree)
    assert (p["step"], p["none"]) == (7, None)
    assert p["dense"]["kernel"].shape == (4, 3)


def test_it_runs_under_jit_and_different_keys_differ():
    fn = lambda p, x: relu(x @ p["a"]) @ p["b"]
    params = {"a": shape(4, 4), "b": shape(4, 4)}
    arch = hp.trace_architecture(fn, params, shape(1, 4))
    draw = jax.jit(lambda key: hp.initialize(key, params, arch))
    first, second = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert not np.allclose(first["a"], second["a"])
    assert not np.allclose(first["a"] / first["b"], first["a"][0, 0] / first["b"][0, 0])
    assert draw._cache_size() == 1


def test_bad_arguments_are_named():
    fn = lambda p, x: x @ p["a"]
    params = {"a": shape(4, 4)}
    arch = hp.trace_architecture(fn, params, shape(1, 4))
    key = jax.random.key(0)
    for name in ("scheme", "fan", "degree"):
        with pytest.raises(ValueError, match=f"`{name}` must be one of"):
            hp.initialize(key, params, arch, **{name: "he"})
    with pytest.raises(ValueError, match="belong to the scheme"):
        hp.initialize(key, params, arch, "agd", fan="fan_out")
    with pytest.raises(ValueError, match=r"not those of the traced model.*`a`"):
        hp.initialize(key, {"a": shape(4, 5)}, arch)
    with pytest.raises(ValueError, match="`in_degree` must lie in"):
        architecture_aware(0)
    with pytest.raises(ValueError, match="`fan` must be one of"):
        architecture_aware(fan="fan_avg")


# --- what the rule keeps level --------------------------------------------------------


@pytest.mark.parametrize("code", ["2_22_222_2222", "2_02_202_0222"])
def test_sums_of_linear_maps_keep_the_second_moment(code):
    net, params = dag_mlp(code, 256, layout="equation 1")
    arch = hp.trace_architecture(
        lambda p, x: net(p, x)[1] @ p["head"],
        params | {"head": shape(256, 2)},
        shape(1, 256),
    )

    @jax.jit
    def ratio(key):
        key, data_key = jax.random.split(key)
        p = hp.initialize(key, params | {"head": shape(256, 2)}, arch)
        first, last = net(p, jax.random.normal(data_key, (64, 256)))
        return jnp.mean(last**2) / jnp.mean(first**2)

    ratios = np.array([ratio(jax.random.key(seed)) for seed in range(12)])
    error = ratios.std() / math.sqrt(len(ratios))
    assert abs(ratios.mean() - 1) < max(0.05, 3 * error)
    assert error < 0.1


def test_in_degrees_of_a_traced_dag_are_those_of_its_string():
    net, params = dag_mlp("2_22_202_0222", 4, layout="published")
    arch = hp.trace_architecture(lambda p, x: net(p, x)[1], params, shape(1, 4))
    degrees = hp.parse_dag("2_22_202_0222").in_degrees
    for path, degree in layers(arch, "in_degree").items():
        if path != "stem":
            assert degree == degrees[int(path[-1]) - 1]


def test_standard_deviations_match_the_published_code(monkeypatch):
    """All 20 MLPs and CNNs and 10 cells: source degree, fan_out (cells: fan_in)."""
    path = SHARED / "principled" / "init_std.json"
    if not path.is_file():
        pytest.skip(f"no reference at {path}")
    recorded = json.loads(path.read_text())
    wanted = set()  # (shape, in-degree, fan, is readout, recorded deviation)
    for family in ("mlp", "cnn"):
        for code, entries in recorded[family].items():
            code = code.split()[0]  # the CNNs' names go on with the kernel size
            degrees = [1, *(sum(d != "0" for d in group) for group in code.split("_"))]
            for name, entry in entries.items():
                degree = 1
                if name.startswith("_to_from"):
                    degree = max(degrees[int(name.split(".")[2])], 1)
                readout = "readout" in name
                size = tuple(entry["shape"])
                wanted.add((size, degree, "fan_out", readout, entry["std"]))
    for code, entries in recorded["tinynetwork"].items():
        degrees = [1, *hp.parse_nas_bench_201(code).in_degrees]
        edges = [(source, to) for to in (1, 2, 3) for source in range(to)]
        for name, entry in entries.items():
            degree = 2 if "conv_a" in name or "downsample" in name else 1
            if ".layers." in name:
                place = int(name.split(".layers.")[1].split(".")[0])
                degree = max(degrees[edges[place][0]], 1)
            readout = "classifier" in name
            size = tuple(entry["shape"])
            wanted.add((size, degree, "fan_in", readout, entry["std"]))
    assert len(wanted) > 25
    # Draws ones, so that an initialiser returns its standard deviation.
    monkeypatch.setattr(jax.random, "normal", lambda key, *args: jnp.ones(*args))
    for size, degree, fan, readout, deviation in wanted:
        init = architecture_aware(  # theirs is (out, in, *positions)
            degree, fan=fan, readout=readout, in_axis=1, out_axis=0
        )
        np.testing.assert_allclose(init(None, size), deviation, rtol=1e-6)
