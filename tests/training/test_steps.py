import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hpfree_jax.data import Examples
from hpfree_jax.models import MODELS, Model
from hpfree_jax.training import square_loss
from hpfree_jax.training._state import prepare
from hpfree_jax.training._steps import (
    ResidentData,
    all_finite,
    make_epoch_order,
    make_step,
    make_validation_order,
    metric_names,
)
from tests.training.conftest import evaluate_on


@pytest.fixture
def begin(config, digits):
    """Returns (task, state, examples, order of epoch 0) of a tiny run."""

    def make(**changes):
        task, state = prepare(config(**changes), digits)
        images, labels = task.dataset.train_images, task.dataset.train_labels
        examples = Examples(jnp.asarray(images), jnp.asarray(labels))
        return task, state, examples, make_epoch_order(task)(0)

    return make


def held_out(task, epoch=0):
    """What a step of a method with a ``validation_fn`` takes beside its examples."""
    if "validation_fn" not in task.extra_args:
        return None
    examples = Examples(*map(jnp.asarray, task.held_out))
    return examples, make_validation_order(task)(epoch)


def all_test(task):
    return Examples(task.dataset.test_images, task.dataset.test_labels)


def test_a_step_matches_one_written_out(begin, digits):
    task, state, examples, order = begin(method="sgd", momentum=0.0, learning_rate=0.1)
    kernels = [np.asarray(k, np.float64) for k in jax.tree.leaves(state.params)]
    state, metrics = make_step(task)(state, ResidentData(examples, order), 1)

    index = np.asarray(order)[:256]
    pixels = digits.train_images.reshape(-1, 64).astype(np.float64)
    x = ((pixels - pixels.mean()) / pixels.std())[index]
    target = np.sqrt(10) * np.eye(10)[digits.train_labels[index]]
    z = x @ kernels[0]
    h = np.sqrt(2) * np.maximum(z, 0)
    error = h @ kernels[1] - target
    back = 2 * error / error.size
    gradients = [
        x.T @ (back @ kernels[1].T * np.sqrt(2) * (z > 0)),
        h.T @ back,
    ]
    for new, old, gradient in zip(
        jax.tree.leaves(state.params), kernels, gradients, strict=True
    ):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-5)
    accuracy = np.mean(np.argmax(h @ kernels[1], 1) == digits.train_labels[index])
    np.testing.assert_allclose(
        metrics[0], [np.mean(error**2), accuracy, 0.1], rtol=1e-5
    )


def test_each_step_takes_the_next_batch_of_the_order(begin, digits):
    task, state, examples, order = begin(method="sgd", learning_rate=1e-30)
    params = jax.tree.map(jnp.copy, state.params)
    model = nnx.merge(task.train_graph, params, state.model_state)
    outputs = model(digits.normalise(digits.train_images))
    per_example = np.asarray(square_loss(outputs, jnp.asarray(digits.train_labels)))
    _, metrics = make_step(task)(state, ResidentData(examples, order), 5)
    batches = per_example[np.asarray(order)[: 5 * 256]].reshape(5, 256)
    np.testing.assert_allclose(metrics[:, 0], batches.mean(1), rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "agd"},
        {"method": "adamw"},
        pytest.param(
            {"method": "marthe", "validation_fraction": 0.2}, marks=pytest.mark.slow
        ),
    ],
)
def test_scanned_steps_equal_single_steps(begin, changes):
    task, state, examples, order = begin(**changes)
    train_steps = make_step(task)
    copy, others = jax.tree.map(jnp.copy, state), held_out(task)
    scanned, scanned_metrics = train_steps(
        copy, ResidentData(examples, order, others), 4
    )
    metrics = []
    for _ in range(4):
        state, m = train_steps(state, ResidentData(examples, order, others), 1)
        metrics.append(m)
    np.testing.assert_allclose(scanned_metrics, np.concatenate(metrics), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_epoch_visits_each_example_once_in_another_order_each_time(begin):
    task, *_ = begin()
    orders = [np.asarray(make_epoch_order(task)(epoch)) for epoch in (0, 1, 0)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1438))
    assert np.any(orders[0] != orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])
    other, *_ = begin(seed=1)
    assert np.any(np.asarray(make_epoch_order(other)(0)) != orders[0])
    assert task.steps_per_epoch == 5


def test_the_initial_weights_depend_on_the_seed_and_the_choice(begin):
    kernels = {
        key: np.asarray(jax.tree.leaves(begin(**changes)[1].params)[0])
        for key, changes in {
            "first": {"width": 64},
            "again": {"width": 64},
            "seed": {"width": 64, "seed": 1},
            "default": {"width": 64, "init": "default"},
            "sgd": {"width": 64, "method": "sgd"},
            "sgd_agd": {"width": 64, "method": "sgd", "init": "agd"},
        }.items()
    }
    np.testing.assert_array_equal(kernels["first"], kernels["again"])
    np.testing.assert_array_equal(kernels["first"], kernels["sgd_agd"])
    np.testing.assert_array_equal(kernels["default"], kernels["sgd"])
    assert np.any(kernels["first"] != kernels["seed"])
    identity = kernels["first"].T @ kernels["first"]  # 64 x 64 orthogonal: s = 1
    np.testing.assert_allclose(identity, np.eye(64), atol=1e-5)
    assert np.abs(kernels["default"].T @ kernels["default"] - np.eye(64)).max() > 0.1


def test_evaluation_weighs_every_test_example_alike(begin, digits):
    task, state, _, _ = begin()
    model = nnx.merge(task.eval_graph, state.params, state.model_state)
    outputs = model(digits.normalise(jnp.asarray(digits.test_images)))
    labels = jnp.asarray(digits.test_labels)
    expected = (
        float(square_loss(outputs, labels).mean()),
        float((jnp.argmax(outputs, -1) == labels).mean()),
    )
    for batch_size in (100, 359, 1000):  # 359 examples: four batches, one, one
        found = evaluate_on(task, all_test(task), batch_size)(state)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


class Normalised(nnx.Module):
    """A model with statistics that move in training and stay in evaluation."""

    def __init__(self, din, dout, rngs, **init):
        self.norm = nnx.BatchNorm(din, momentum=0.5, rngs=rngs)
        self.layer = nnx.Linear(din, dout, rngs=rngs, **init)

    def __call__(self, x):
        return self.layer(self.norm(x.reshape(x.shape[0], -1)))


@pytest.fixture
def begin_normalised(begin, monkeypatch):
    build = lambda shape, classes, **init: Normalised(64, classes, **init)
    monkeypatch.setitem(MODELS, "normalised", Model(build, {}, "a test"))
    return functools.partial(begin, model="normalised", depth=None, width=None)


def test_mutable_model_state_is_carried_and_fixed_in_evaluation(begin_normalised):
    task, state, examples, order = begin_normalised(method="sgd")
    evaluate = evaluate_on(task, all_test(task))
    before = [evaluate(state), evaluate(state)]
    assert before[0] == before[1]
    first_batch = task.dataset.normalise(examples.images[order[:256]])
    state, _ = make_step(task)(state, ResidentData(examples, order), 1)
    mean = state.model_state["norm"]["mean"][...]
    expected = 0.5 * first_batch.reshape(256, 64).mean(0)
    np.testing.assert_allclose(mean, expected, atol=1e-5)


def test_other_passes_leave_the_statistics_alone(begin_normalised):
    """The statistics of MARTHE's steps and of SGD's, at rates that move nothing."""
    states = {}
    for method, rate in (("sgd", 1e-30), ("marthe", 1e-30)):
        task, state, examples, order = begin_normalised(
            method=method, learning_rate=rate, validation_fraction=0.2
        )
        train_steps = make_step(task)
        for _ in range(2):
            state, _ = train_steps(
                state, ResidentData(examples, order, held_out(task)), 1
            )
        states[method] = state.model_state
    leaves = [jax.tree.leaves(states[method]) for method in ("sgd", "marthe")]
    assert len(leaves[0]) == 2
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)


def spied(task, state, names):
    """The task with an optimizer that keeps the value of each function in its state."""

    class Spied(NamedTuple):
        learning_rate: jax.Array
        seen: dict[str, jax.Array]

    def update(grads, state, params=None, **extra_args):
        assert set(names) == {*extra_args} - {"value"}
        seen = {name: extra_args[name](params) for name in names}
        return jax.tree.map(jnp.zeros_like, grads), state._replace(seen=seen)

    first = Spied(jnp.zeros(()), dict.fromkeys(names, jnp.zeros(())))
    optimizer = optax.GradientTransformationExtraArgs(lambda params: first, update)
    reads = {name: lambda state, name=name: state.seen[name] for name in names}
    method = task.method._replace(extra_args=names, metrics=reads)
    return (
        task._replace(optimizer=optimizer, method=method),
        state._replace(opt_state=first),
    )


def test_the_functions_are_losses_in_training_and_in_evaluation(begin_normalised):
    task, state, examples, order = begin_normalised(
        method="sgd", validation_fraction=0.4
    )
    names = ("value_fn", "validation_fn")
    task, state = spied(task, state, names)
    assert metric_names(task) == ("loss", "accuracy", "learning_rate", *names)
    train_steps = make_step(task)
    others = held_out(task)
    for step in range(2):
        rows = others[1][256 * step : 256 * (step + 1)]
        batch = Examples(*(np.asarray(array)[rows] for array in others[0]))
        expected = evaluate_on(task, batch)(state)[0]
        state, metrics = train_steps(state, ResidentData(examples, order, others), 1)
        found = dict(zip(metric_names(task), metrics[0].tolist(), strict=True))
        assert found["value_fn"] == pytest.approx(found["loss"], rel=1e-6)
        assert found["validation_fn"] == pytest.approx(expected, rel=1e-5)
    # In evaluation mode only the statistics of earlier steps count.
    training_mode = nnx.merge(task.train_graph, state.params, state.model_state)
    outputs = training_mode(task.dataset.normalise(batch.images))
    loss = square_loss(outputs, jnp.asarray(batch.labels)).mean()
    assert float(loss) != pytest.approx(found["validation_fn"], rel=1e-3)


@pytest.mark.slow
def test_nothing_is_computed_twice(begin):
    """XLA's count: a gradient that is not shared would add 1 to a ratio."""

    def flops(**changes):
        task, state, examples, order = begin(
            depth=4, width=128, batch_size=128, **changes
        )
        train_steps = make_step(task)
        args = (state, ResidentData(examples, order, held_out(task)), 1)
        return train_steps.lower(*args).compile().cost_analysis()["flops"]

    plain = flops(method="sgd")
    assert flops(method="hd") <= 1.06 * plain
    assert flops(method="marthe", validation_fraction=0) <= 3 * plain
    assert flops(method="marthe") <= 4 * plain


def test_the_optimizer_is_given_the_loss(begin):
    task, state, examples, order = begin()

    tx = optax.inject_hyperparams(lambda learning_rate: optax.identity())(0.0)
    seen = []

    def spy(grads, state, params=None, **extra_args):
        seen.append(extra_args["value"].shape)
        return tx.update(grads, state, params)

    spied = optax.GradientTransformationExtraArgs(tx.init, spy)
    task = task._replace(optimizer=spied)
    state = state._replace(opt_state=tx.init(state.params))
    make_step(task)(state, ResidentData(examples, order), 1)
    assert seen == [()]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_all_finite_sees_every_leaf(bad):
    tree = {"a": jnp.ones(3), "b": [jnp.arange(2)]}
    assert all_finite(tree)
    assert not all_finite({**tree, "c": jnp.array([1.0, bad])})


def test_a_batch_larger_than_the_data_is_refused(begin):
    with pytest.raises(
        ValueError, match=r"`batch_size` 1439 .* 1438 training examples"
    ):
        begin(batch_size=1439)
