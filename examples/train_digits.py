"""Trains a small network on real digits with AGD: no learning rate, no schedule.

Needs the extra `train` (Flax, TensorFlow Datasets): pip install "hpfree-jax[train]".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.data import load_dataset
from hpfree_jax.models import FCN
from hpfree_jax.training import square_loss

digits = load_dataset("digits")
model = FCN(
    64,
    depth=3,
    width=128,
    num_classes=10,
    kernel_init=hp.initializers.scaled_orthogonal(),
    rngs=nnx.Rngs(0),
)
graph, params = nnx.split(model)
optimizer = hp.agd()
opt_state = optimizer.init(params)


@jax.jit
def train_step(params, opt_state, images, labels):
    def loss_fn(params):
        outputs = nnx.merge(graph, params)(digits.normalise(images))
        return jnp.mean(square_loss(outputs, labels))

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


@jax.jit
def accuracy(params):
    outputs = nnx.merge(graph, params)(digits.normalise(digits.test_images))
    return jnp.mean(jnp.argmax(outputs, axis=-1) == digits.test_labels)


rng = np.random.default_rng(0)
for epoch in range(1, 11):
    losses = []
    for batch in np.array_split(rng.permutation(len(digits.train_labels)), 22):
        params, opt_state, loss = train_step(
            params, opt_state, digits.train_images[batch], digits.train_labels[batch]
        )
        losses.append(loss)
    rate = hp.get_learning_rate(opt_state)
    print(
        f"epoch {epoch}  loss {np.mean(losses):.3f}  learning rate {rate:.3f}  "
        f"test accuracy {accuracy(params):.1%}"
    )
