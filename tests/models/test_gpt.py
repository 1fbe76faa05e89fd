"""GPT: against NumPy, its options, its graph, and the text that it writes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.models import GPT, generate
from hpfree_jax.models._generate import _continue, cached_scores, empty_caches
from tests.models.abstract import filled
from tests.models.paths import power, times

SIZES = {"vocabulary": 11, "depth": 2, "width": 8, "heads": 2, "context": 6}
TOKENS = np.random.default_rng(0).integers(11, size=(3, 6)).astype(np.int32)


def make(**settings):
    return filled(lambda: GPT(**{**SIZES, **settings}, rngs=nnx.Rngs(0)))


@nnx.jit
def run(model, tokens):
    return model(tokens)


def stacked_like(plain, stacked):
    """The weights of a model of separate blocks, in one whose blocks are stacked."""
    source = nnx.to_pure_dict(nnx.state(plain, nnx.Param))
    blocks = [source["blocks"][place] for place in sorted(source["blocks"])]
    source["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    state = nnx.state(stacked, nnx.Param)
    nnx.replace_by_pure_dict(state, source)
    nnx.update(stacked, state)
    return stacked


def numpy_gpt(p, tokens, heads):
    """One text, in float64, with attention written out position by position."""

    def norm(p, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1) + 1e-5)[:, None]
        return x * p["scale"] + p["bias"]

    dense = lambda p, x: x @ p["kernel"] + p["bias"]
    x = p["tokens"]["embedding"][tokens] + p["positions"]["embedding"][: len(tokens)]
    size = x.shape[1] // heads
    for block in (p["blocks"][place] for place in sorted(p["blocks"])):
        qkv = dense(block["qkv"], norm(block["attention_norm"], x))
        mixed = np.zeros_like(x)
        for head in range(heads):
            q, k, v = (
                qkv[:, part * x.shape[1] + head * size :][:, :size] for part in range(3)
            )
            for t in range(len(tokens)):
                weights = np.exp(k[: t + 1] @ q[t] / np.sqrt(size))
                attended = weights @ v[: t + 1] / weights.sum()
                mixed[t, head * size : (head + 1) * size] = attended
        x = x + dense(block["out"], mixed)
        h = dense(block["up"], norm(block["mlp_norm"], x))
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + dense(block["down"], h)
    return norm(p["norm"], x) @ p["tokens"]["embedding"].T


def test_scores_match_numpy_and_scanned_blocks_change_nothing():
    plain = make()
    pure = nnx.to_pure_dict(nnx.state(plain, nnx.Param))
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pure)
    expected = np.stack([numpy_gpt(arrays, text, heads=2) for text in TOKENS])
    outputs = run(plain, TOKENS)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    scanned = stacked_like(plain, make(scan=True))
    outputs = run(scanned, TOKENS)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def loss_of(model, transform=lambda loss: loss):
    """The mean loss, or another transformation of it, at the parameters."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @transform
    def loss(params):
        scores = nnx.merge(graph, params, rest, copy=True)(TOKENS[:, :-1])
        chosen = jax.nn.log_softmax(scores)
        return -jnp.take_along_axis(chosen, TOKENS[:, 1:, None], -1).mean()

    return loss(params)


def test_remat_and_dropout_in_a_loop_keep_value_and_gradients():
    """The same keys are drawn in both, and drawn again in the backward pass."""
    settings = {"scan": True, "dropout": 0.5}
    plain, again = make(**settings), make(**settings, remat=True)
    evaluated = loss_of(plain)
    plain.train()
    again.train()
    a, b = (loss_of(model, jax.value_and_grad) for model in (plain, again))
    assert abs(a[0] - evaluated) > 1e-3  # something is dropped
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_initial_weights_have_the_scales_of_the_source():
    sizes = {"vocabulary": 50, "depth": 8, "width": 64, "heads": 2, "context": 64}
    model = nnx.jit(lambda: GPT(**sizes, scan=True, rngs=nnx.Rngs(0)))()
    blocks = model.blocks
    std = lambda variable: float(np.std(np.asarray(variable[...])))
    for usual in (
        model.tokens.embedding,
        model.positions.embedding,
        blocks.qkv.kernel,
        blocks.up.kernel,
    ):
        assert std(usual) == pytest.approx(0.02, rel=0.05)
    for last in (blocks.out.kernel, blocks.down.kernel):
        assert std(last) == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8)
    assert std(blocks.qkv.bias) == 0
    assert len(np.unique(blocks.qkv.kernel[:, 0, 0])) == 8  # each block has its own


@pytest.mark.parametrize("switch", ["bias", "affine", "tied"])
def test_switches_remove_and_add_the_parameters_they_name(switch):
    count = lambda m: sum(x.size for x in jax.tree.leaves(nnx.state(m, nnx.Param)))
    width, depth, vocabulary = 8, 2, 11
    norms = width * (2 * depth + 1)
    change = {
        "bias": -norms - depth * width * (3 + 1 + 4 + 1),
        "affine": -norms,
        "tied": vocabulary * width,
    }
    assert count(make(**{switch: False})) - count(make()) == change[switch]
    shape = jax.eval_shape(make(**{switch: False}).__call__, TOKENS).shape
    assert shape == (3, 6, vocabulary)


def test_dtypes_of_parameters_and_computation_are_chosen_apart():
    for scan in (False, True):
        model = make(dtype=jnp.bfloat16, param_dtype=jnp.float16, scan=scan)
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float16)}
        assert nnx.eval_shape(run, model, TOKENS).dtype == jnp.bfloat16


def test_the_layout_by_hand():
    """Fused projections count three, and what writes to the stream the blocks."""
    for scan in (False, True):
        model = make(scan=scan)
        arch = hp.trace_architecture(model, TOKENS)
        assert arch.path_depths == times({2: 1}, power({0: 1, 2: 1}, 4))
        matrices = arch.layout(nnx.state(model, nnx.Param)).matrices
        in_axis, out_axis, stack = (1, 2, (0,)) if scan else (0, 1, ())
        matrix = functools.partial(hp.Matrix, in_axis, out_axis, (), stack)
        for place in [""] if scan else ["/0", "/1"]:
            rules = {k: matrices[f"blocks{place}/{k}/kernel"] for k in ("qkv", "up")}
            assert rules["qkv"] == matrix(scale_divisor=3, depth_count=3)
            assert rules["up"] == matrix()
            for name in ("out", "down"):
                rule = matrices[f"blocks{place}/{name}/kernel"]
                assert rule == matrix(scale_divisor=2)
        assert matrices["tokens/embedding"] == hp.Matrix(0, 1)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 3), np.float32), r"integer tokens .*\(2, 3\) of float32"),
        (np.zeros(3, np.int32), r"integer tokens .*\(3,\) of int32"),
        (np.zeros((2, 7), np.int32), "at most `context` = 6 tokens, got 7"),
    ],
)
def test_inputs_that_are_no_tokens_are_described(tokens, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make().__call__, tokens)


# --- text -----------------------------------------------------------------------------


def test_the_likeliest_text_slides_its_window():
    """Beside a loop in Python that runs past the context."""
    # Biases, or a tied table, would make one token the likeliest everywhere.
    model = make(tied=False, bias=False)
    text, expected = TOKENS[:, :4], []
    window = text
    for _ in range(12):
        padded = np.pad(window, ((0, 0), (0, SIZES["context"] - window.shape[1])))
        scores = run(model, padded)[:, window.shape[1] - 1]
        token = np.argmax(scores, -1)[:, None]
        expected.append(token)
        window = np.concatenate([window, token], 1)[:, -SIZES["context"] :]
    drawn = generate(model, text, 12, jax.random.key(0), temperature=0)
    np.testing.assert_array_equal(drawn, np.concatenate(expected, 1))
    assert drawn.dtype == jnp.int32
    assert len(np.unique(drawn)) > 3
    scanned = stacked_like(model, make(scan=True, remat=True, tied=False, bias=False))
    again = generate(scanned, text, 12, jax.random.key(0), temperature=0)
    np.testing.assert_array_equal(again, drawn)


def test_tokens_are_drawn_from_the_softmax_over_the_temperature():
    model = make(dropout=0.9)
    model.train()  # generate drops nothing out, and leaves the model as it is
    texts = np.tile(TOKENS[:1, :3], (4000, 1))
    drawn = generate(model, texts, 1, jax.random.key(0), temperature=2.0)
    assert not model.dropout.deterministic
    model.eval()
    expected = jax.nn.softmax(run(model, TOKENS[:1, :3])[0, -1] / 2)
    found = np.bincount(np.asarray(drawn[:, 0]), minlength=11) / 4000
    np.testing.assert_allclose(found, expected, atol=0.03)  # 4 standard deviations


def test_one_compilation_serves_all_temperatures():
    model, text = make(), TOKENS[:, :4]
    generate(model, text, 5, jax.random.key(0), 0)
    before = _continue._cache_size()
    generate(model, text[:, ::-1], 5, jax.random.key(1), 0.7)
    assert _continue._cache_size() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 0), np.int32), 3), "at least one token to continue"),
        ((np.zeros(3, np.int32), 3), r"`tokens` must be \(batch, time\)"),
        ((TOKENS, -1), "`num` must lie in"),
        ((TOKENS, 3, jax.random.key(0), -1.0), "`temperature` must lie in"),
    ],
)
def test_what_cannot_be_continued_is_named(arguments, message):
    tokens, num, *rest = arguments
    with pytest.raises(ValueError, match=message):
        generate(make(), tokens, num, *(rest or [jax.random.key(0)]))


@pytest.mark.parametrize("changes", [{}, {"scan": True, "tied": False, "dropout": 0.5}])
def test_scores_from_kept_keys_are_those_of_the_whole_text(changes):
    model, step = make(**changes), nnx.jit(cached_scores)
    expected = run(model, TOKENS)  # of each place, from what comes before it
    caches = empty_caches(model, 3, 6)
    for place in range(6):
        scores, caches = step(model, caches, TOKENS[:, place], place)
        np.testing.assert_allclose(scores, expected[:, place], rtol=1e-4, atol=1e-6)
