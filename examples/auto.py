"""A model of your own, trained by hp.auto: no learning rate, no schedule, no warm-up.

    python examples/auto.py

A small transformer reads the eight rows of a digit one after another. Prints its
accuracy on images that it has not seen, beside Adam at its usual rate of 0.001.
Needs the extra `train` (Flax, TensorFlow Datasets): pip install "hpfree-jax[train]".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.data import load_dataset

WIDTH = 32
BATCH_SIZE = 64


class Block(nnx.Module):
    """Attention between the rows, then two dense layers, each added to its input."""

    def __init__(self, rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))


class Reader(nnx.Module):
    """Scores of the ten digits, of images of 8 x 8."""

    def __init__(self, rngs):
        self.embed = nnx.Linear(8, WIDTH, rngs=rngs)
        self.positions = nnx.Param(0.1 * rngs.normal((8, WIDTH)))
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.readout = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, images):
        x = self.embed(images.reshape(-1, 8, 8)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.readout(x.mean(axis=1))


def train(make_optimizer, digits, num_epochs):
    """Returns the share of the test images that are read correctly."""
    model = Reader(nnx.Rngs(0))
    steps_per_epoch = len(digits.train_labels) // BATCH_SIZE
    tx = make_optimizer(model, num_epochs * steps_per_epoch)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def loss_fn(model, images, labels):
        scores = model(digits.normalise(images))
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return jnp.mean(losses)

    @nnx.jit
    def step(model, optimizer, images, labels):
        grads = nnx.grad(loss_fn)(model, images, labels)
        optimizer.update(model, grads)

    rng = np.random.default_rng(0)
    for _ in range(num_epochs):
        order = rng.permutation(len(digits.train_labels))
        for number in range(steps_per_epoch):
            batch = order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
            step(
                model, optimizer, digits.train_images[batch], digits.train_labels[batch]
            )
    scores = nnx.jit(lambda m, x: m(digits.normalise(x)))(model, digits.test_images)
    return float(jnp.mean(jnp.argmax(scores, axis=-1) == digits.test_labels))


def auto(model, total_steps):
    """What the model is, and for how long it trains, is all that hp.auto is told."""
    batch = jax.ShapeDtypeStruct((BATCH_SIZE, 8, 8, 1), jnp.float32)
    architecture = hp.trace_architecture(model, batch)
    return hp.auto(nnx.state(model, nnx.Param), architecture, total_steps)


def main(num_epochs=10):
    """Prints the accuracies; returns {method: accuracy}."""
    digits = load_dataset("digits")
    methods = {
        "hp.auto": auto,
        "Adam at 0.001": lambda model, total_steps: optax.adam(1e-3),
    }
    accuracies = {}
    for name, make_optimizer in methods.items():
        accuracies[name] = train(make_optimizer, digits, num_epochs)
        print(f"{name:<15}{accuracies[name]:>7.1%}")
    return accuracies


if __name__ == "__main__":
    main()
