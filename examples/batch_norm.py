"""Hypergradients with batch normalisation and dropout, in Flax NNX and in Linen.

    python examples/batch_norm.py

Three rules make the step right for any state that a network changes as it runs:

1. The training pass is the one that writes statistics, once.
2. ``value_fn`` is that pass again, with the same statistics and the same dropout key,
   without what it would write; then it is the loss whose gradient was passed, and XLA
   computes the two once.
3. ``validation_fn`` evaluates: running statistics, no dropout, nothing written. The
   held-out examples come from the training set, never from the test set.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import hpfree_jax as hp


class Network(NamedTuple):
    """A network as pure functions, whatever library it is written in."""

    params: Any
    stats: Any  # running means and variances
    train: Callable[..., Any]  # (params, stats, x, dropout key) -> logits, new stats
    predict: Callable[..., Any]  # (params, stats, x) -> logits


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)  # takes its key when called
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x, dropout_key=None):
        evaluates = dropout_key is None
        x = self.norm(self.hidden(x), use_running_average=evaluates)
        x = self.dropout(nnx.relu(x), deterministic=evaluates, rngs=dropout_key)
        return self.out(x)


def nnx_network(seed=0):
    graph, params, stats = nnx.split(NNXModel(nnx.Rngs(seed)), nnx.Param, nnx.BatchStat)

    def train(params, stats, x, key):
        model = nnx.merge(graph, params, stats, copy=True)  # not those of the caller
        return model(x, key), nnx.state(model, nnx.BatchStat)

    def predict(params, stats, x):
        return nnx.merge(graph, params, stats)(x)

    return Network(params, stats, train, predict)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(32)(x))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(nn.relu(x)))


def linen_network(seed=0):
    model = LinenModel()
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 64)))

    def train(params, stats, x, key):
        logits, written = model.apply(
            {"params": params, "batch_stats": stats},
            x,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return logits, written["batch_stats"]

    def predict(params, stats, x):
        return model.apply({"params": params, "batch_stats": stats}, x)

    return Network(variables["params"], variables["batch_stats"], train, predict)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def make_step(network, tx):
    """Returns the training step, a function of arrays for ``jax.jit``."""

    def step(params, stats, state, batch, held_out, key):
        x, labels = batch

        def loss(params):
            logits, new_stats = network.train(params, stats, x, key)
            return cross_entropy(logits, labels), new_stats

        def validation_loss(params):
            logits = network.predict(params, new_stats, held_out[0])
            return cross_entropy(logits, held_out[1])

        grads, new_stats = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(
            grads,
            state,
            params,
            value_fn=lambda params: loss(params)[0],
            validation_fn=validation_loss,
        )
        return optax.apply_updates(params, updates), new_stats, state

    return step


def make_data(key, num_examples):
    """Noisy copies of ten fixed 8 x 8 patterns, and their numbers."""
    patterns = jax.random.bernoulli(jax.random.key(7), 0.4, (10, 64)).astype(float)
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.randint(label_key, (num_examples,), 0, 10)
    return patterns[labels] + jax.random.normal(noise_key, (num_examples, 64)), labels


def main(num_steps=300):
    """Prints and returns the test accuracy for each library."""
    draw = jax.jit(make_data, static_argnums=1)
    test_x, test_labels = draw(jax.random.key(1), 1000)
    accuracies = {}
    for name, network in (("NNX", nnx_network()), ("Linen", linen_network())):
        tx = hp.marthe(optax.sgd, 1e-3)
        step = jax.jit(make_step(network, tx))
        carry = network.params, network.stats, tx.init(network.params)
        for key in jax.random.split(jax.random.key(0), num_steps):
            train_key, held_out_key, dropout_key = jax.random.split(key, 3)
            batches = draw(train_key, 64), draw(held_out_key, 64)
            carry = step(*carry, *batches, dropout_key)
        params, stats, state = carry
        logits = jax.jit(network.predict)(params, stats, test_x)
        accuracies[name] = float(jnp.mean(jnp.argmax(logits, 1) == test_labels))
        rate = hp.get_learning_rate(state)
        print(f"{name:<6} accuracy {accuracies[name]:.1%}, learning rate {rate:.4f}")
    return accuracies


if __name__ == "__main__":
    main()
