"""One bracket for every problem: AutoWU finds warm-up length and peak rate.

    python examples/autowu.py

Trains a small network by Adam on noisy copies of ten patterns, drawn by formula, and
prints where AutoWU ended its warm-up, the rate that it chose, and the test accuracy,
beside Adam at three constant rates.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import hpfree_jax as hp

STEPS_PER_EPOCH = 10
NUM_EPOCHS = 40


def make_data(key, num_examples):
    """Noisy copies of ten fixed 8 x 8 patterns, and their numbers."""
    patterns = jax.random.bernoulli(jax.random.key(7), 0.4, (10, 64)).astype(float)
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.randint(label_key, (num_examples,), 0, 10)
    noise = jax.random.normal(noise_key, (num_examples, 64))
    return patterns[labels] - 0.4 + noise, labels


def init_params(key):
    keys = jax.random.split(key)
    return {
        "hidden": jax.random.normal(keys[0], (64, 32)) * (2 / 64) ** 0.5,
        "out": jax.random.normal(keys[1], (32, 10)) * (1 / 32) ** 0.5,
    }


def logits_of(params, x):
    return jax.nn.relu(x @ params["hidden"]) @ params["out"]


def loss(params, x, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits_of(params, x), labels
    )
    return losses.mean()


def train(tx, num_steps):
    """Returns the trained parameters and the optimizer's state."""
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params, state, key):
        value, grads = jax.value_and_grad(loss)(params, *make_data(key, 128))
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = init_params(jax.random.key(0))
    state: Any = tx.init(params)
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, state = step(params, state, key)
    return params, state


def main(num_epochs=NUM_EPOCHS):
    """Prints the accuracies; returns {method: accuracy} and AutoWU's state."""
    num_steps = num_epochs * STEPS_PER_EPOCH
    x, labels = make_data(jax.random.key(2), 1000)
    methods = {
        "AutoWU": hp.autowu(optax.scale_by_adam(), num_steps, STEPS_PER_EPOCH),
        **{f"Adam at {rate:g}": optax.adam(rate) for rate in (1e-4, 1e-2, 1.0)},
    }
    accuracies, schedule = {}, None
    for name, tx in methods.items():
        params, state = train(tx, num_steps)
        right = jnp.argmax(logits_of(params, x), axis=1) == labels
        accuracies[name] = float(jnp.mean(right))
        print(f"{name:<15}{accuracies[name]:>8.1%}")
        schedule = state[-1] if name == "AutoWU" else schedule
    assert schedule is not None
    print(
        f"AutoWU left the warm-up after step {schedule.switch_step} of {num_steps}; "
        f"rate at the predicted minimum: {schedule.best_learning_rate:.1e}"
    )
    return accuracies, schedule


if __name__ == "__main__":
    main()
