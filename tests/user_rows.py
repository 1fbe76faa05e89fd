"""What a user's own module registers: a dataset, a model and a method."""

import math

import numpy as np
import optax
from flax import nnx

from hpfree_jax.data import Dataset, DatasetEntry, register_dataset
from hpfree_jax.methods import Method, Setting, register_method
from hpfree_jax.models import Model, register_model


def open_stripes(entry, name, data_dir, context):
    """Images of horizontal or vertical stripes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=64).astype(np.int32)
    stripes = np.broadcast_to(np.arange(4) % 2 * 255, (4, 4)).astype(np.uint8)
    images = np.stack([stripes.T if label else stripes for label in labels])[..., None]
    mean, std = np.full(1, 127.5, "f"), np.full(1, 127.5, "f")
    return Dataset(name, images, labels, images, labels, 2, mean, std)


class TwoLayers(nnx.Module):
    def __init__(self, inputs, hidden, outputs, rngs):
        self.first = nnx.Linear(inputs, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        return self.second(nnx.relu(self.first(x)))


def build_two_layers(input_shape, num_classes, *, rngs, hidden):
    return TwoLayers(math.prod(input_shape), hidden, num_classes, rngs)


def build_sign_descent(length, learning_rate, decay):
    rates = optax.exponential_decay(learning_rate, length.total_steps, decay)
    return optax.chain(
        optax.scale_by_sign(),
        optax.inject_hyperparams(optax.scale_by_learning_rate)(rates),
    )


def register_rows():
    entry = DatasetEntry(open_stripes, "64 images of stripes", (4, 4, 1), 2)
    register_dataset("stripes", entry)
    model = Model(build_two_layers, {"hidden": 8}, "two layers of a user's own")
    register_model("two_layers", model)
    settings = {
        "learning_rate": Setting(0.01, "Step of every parameter."),
        "decay": Setting(0.5, "Factor of the step at the end."),
    }
    method = Method(build_sign_descent, settings, "default", "sign descent")
    register_method("sign_descent", method)
