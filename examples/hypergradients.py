"""A learning rate that finds its own schedule on a held-out split.

    python examples/hypergradients.py

Trains a small network on the digits 0-9 (8 x 8 pixels, drawn by formula here, so that
nothing is downloaded) from three learning rates, a factor of 100 apart, with a constant
rate and with the multiplicative rule of hypergradient descent and of MARTHE. MARTHE's
objective is the loss on examples held out from the training set, never the test set.
"""

import jax
import jax.numpy as jnp
import optax

import hpfree_jax as hp

NUM_STEPS = 300
STARTS = (3e-4, 3e-2, 3.0)


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


def train(tx, data, held_out, num_steps=NUM_STEPS):
    """Returns the trained parameters and the learning rate of each step."""

    @jax.jit
    def step(params, state, key):
        take = lambda arrays, key: [
            array[jax.random.randint(key, (32,), 0, len(array))] for array in arrays
        ]
        batch = take(data, key)
        validation_batch = take(held_out, jax.random.fold_in(key, 1))
        value_fn = lambda params: loss(params, *batch)
        grads = jax.grad(value_fn)(params)
        updates, state = tx.update(
            grads,
            state,
            params,
            value_fn=value_fn,
            validation_fn=lambda params: loss(params, *validation_batch),
        )
        return optax.apply_updates(params, updates), state

    params = init_params(jax.random.key(0))
    state, rates = tx.init(params), []
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, state = step(params, state, key)
        rates.append(hp.get_learning_rate(state))
    return params, [float(rate) for rate in rates]


def main(num_steps=NUM_STEPS):
    """Prints the test accuracy and the rates; returns {(method, start): accuracy}."""
    train_key, held_out_key, test_key = jax.random.split(jax.random.key(2), 3)
    data, held_out = make_data(train_key, 2000), make_data(held_out_key, 500)
    x, labels = make_data(test_key, 1000)
    methods = {
        "constant": lambda rate: optax.inject_hyperparams(optax.sgd)(rate),
        "HD": lambda rate: hp.hd(optax.sgd, rate, 0.05, rule="multiplicative"),
        "MARTHE": lambda rate: hp.marthe(optax.sgd, rate, 0.05, rule="multiplicative"),
    }
    print(f"{'method':<10}{'start':>8}{'accuracy':>10}   rate at 0, 1/4, 1/2, 3/4, end")
    accuracies = {}
    for name, make in methods.items():
        for start in STARTS:
            params, rates = train(make(start), data, held_out, num_steps)
            right = jnp.argmax(logits_of(params, x), axis=1) == labels
            accuracy = float(jnp.mean(right))
            shown = [rates[(len(rates) - 1) * i // 4] for i in range(5)]
            print(
                f"{name:<10}{start:>8.0e}{accuracy:>10.1%}   "
                + " ".join(f"{rate:.1e}" for rate in shown)
            )
            accuracies[name, start] = accuracy
    return accuracies


if __name__ == "__main__":
    main()
