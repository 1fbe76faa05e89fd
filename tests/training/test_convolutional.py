"""Networks with batch normalisation and dropout in the trainer, and in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpfree_jax.data import DATASETS, Augmentation, load_dataset
from hpfree_jax.training import cross_entropy_loss, resume, train
from hpfree_jax.training._accumulation import accumulated_grad
from hpfree_jax.training._losses import is_correct
from hpfree_jax.training._state import prepare
from hpfree_jax.training._steps import ResidentData, make_epoch_order, make_step
from tests.training.conftest import read_metrics, same

MOMENTUM, EPSILON = 0.9, 1e-5


class Normalised(nnx.Module):
    """A dense layer, batch normalisation, tanh, and another dense layer."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)
        self.last = nnx.Linear(4, 2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.norm(self.first(x))))


def by_hand(first, last, x, y, parts):
    """Mean loss, and mean and variance of the statistics, in float64."""
    mean, variance, losses = np.zeros(4), np.ones(4), []
    for x_part, y_part in zip(np.split(x, parts), np.split(y, parts), strict=True):
        z = x_part @ first
        m, v = z.mean(0), z.var(0)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * m
        variance = MOMENTUM * variance + (1 - MOMENTUM) * v
        scores = np.tanh((z - m) / np.sqrt(v + EPSILON)) @ last
        losses.append(
            np.mean(np.log(np.exp(scores).sum(1)) - scores[range(len(z)), y_part])
        )
    return np.mean(losses), mean, variance


def test_each_part_is_normalised_by_itself_and_moves_the_statistics():
    """Against NumPy: the loss, its gradient by differences, and both statistics."""
    model = Normalised(nnx.Rngs(0))
    graph, params, others = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.integers(2, size=12)

    def loss_fn(params, others, batch):
        model = nnx.merge(graph, params, others, copy=True)
        outputs = model(batch[0])
        loss = jnp.mean(cross_entropy_loss(outputs, batch[1]))
        accuracy = jnp.mean(is_correct(outputs, batch[1]))
        return loss, (accuracy, nnx.state(model, nnx.Not(nnx.Param)))

    batch = (jnp.asarray(x, jnp.float32), jnp.asarray(y))
    (loss, (_, others)), grads = accumulated_grad(loss_fn, 3)(params, others, batch)
    first, last = (
        np.asarray(params[name]["kernel"][...], np.float64)
        for name in ("first", "last")
    )
    expected, mean, variance = by_hand(first, last, x, y, 3)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(others["norm"]["mean"][...], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(others["norm"]["var"][...], variance, rtol=1e-5)
    whole = by_hand(first, last, x, y, 1)
    assert abs(whole[0] - expected) > 1e-3  # and this is not what the batch would be
    for place in np.ndindex(*first.shape):
        step = np.zeros_like(first)
        step[place] = 1e-6
        up, down = (by_hand(first + s, last, x, y, 3)[0] for s in (step, -step))
        found = float(grads["first"]["kernel"][...][place])
        assert found == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-5)


# Eight by eight pixels: three convolutional blocks, with dropout.
SMALL = {"model": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.3}


@pytest.fixture
def shifted(monkeypatch):
    entry = DATASETS["digits"]._replace(augmentation=Augmentation(padding=1, flip=True))
    monkeypatch.setitem(DATASETS, "shifted", entry)


@pytest.mark.slow
def test_a_step_in_parts_is_that_of_parts_one_by_one(config, digits):
    """A wide residual network with dropout, against a loop over a stateful model."""
    settings = {**SMALL, "method": "sgd", "momentum": 0.0, "batch_size": 32}
    task, state = prepare(
        config(**settings, accumulate=2, learning_rate=0.5, loss="cross_entropy"),
        digits,
    )
    copies = jax.tree.map(jnp.copy, (state.params, state.model_state))  # is donated
    model = nnx.merge(task.train_graph, *copies)
    order = np.asarray(make_epoch_order(task)(0))
    examples = jax.device_put(digits.train_arrays)
    before = jax.tree.map(jnp.copy, state.params)
    state, metrics = make_step(task)(state, ResidentData(examples, order), 1)

    def loss_fn(model, images, labels):
        return jnp.mean(cross_entropy_loss(model(digits.prepare(images)), labels))

    losses, grads = [], []
    for part in np.split(order[:32], 2):
        images, labels = digits.train_images[part], digits.train_labels[part]
        loss, grad = nnx.value_and_grad(loss_fn)(model, images, labels)
        losses.append(float(loss))
        grads.append(grad)
    assert float(metrics[0, 0]) == pytest.approx(np.mean(losses), rel=1e-5)
    expected = jax.tree.map(lambda p, a, b: p - 0.5 * (a + b) / 2, before, *grads)
    for a, b in zip(*map(jax.tree.leaves, (state.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    statistics = nnx.state(model, nnx.BatchStat)
    found = nnx.filter_state(state.model_state, nnx.BatchStat)
    pairs = list(zip(*map(jax.tree.leaves, (found, statistics)), strict=True))
    assert len(pairs) == 2 * 7
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_convolutional_run_learns_and_continues_exactly(
    config, shifted, interrupt_at
):
    """With batch normalisation, dropout, augmentation and parts; then evaluated."""
    settings = {**SMALL, "dataset": "shifted", "augment": True, "accumulate": 2}
    settings |= {"method": "adamw", "learning_rate": 1e-2, "epochs": 4}
    whole = train(config("whole", **settings))
    with interrupt_at(7):
        part = train(config("part", **settings))
    assert (part.step, part.interrupted) == (7, True)
    rest = resume(part.directory)
    assert same(rest, whole)
    lines = read_metrics(rest.directory)
    assert lines == read_metrics(whole.directory)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    # The accuracy is that of single images: no statistics of a batch, no dropout.
    model = nnx.merge(
        whole.task.eval_graph, whole.state.params, whole.state.model_state
    )
    data = load_dataset("shifted")
    answer = jax.jit(lambda image: jnp.argmax(model(data.prepare(image[None]))[0]))
    right = [int(answer(i)) == c for i, c in zip(*data.test_arrays, strict=True)]
    assert whole.test_accuracy == pytest.approx(np.mean(right), abs=1e-6)
