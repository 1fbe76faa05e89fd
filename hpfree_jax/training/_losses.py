"""Losses of a classifier: one number per example, or per token of a text."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

# From outputs and targets to a loss for each target.
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def square_loss(
    outputs: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    r"""Mean over the classes of squared differences to a scaled one-hot vector.

    .. math:: \frac1C \sum_c (f_c - \sqrt C\, [c = y])^2

    The factor gives the target a root mean square of 1, which AGD assumes. A network
    that answers 0 has the loss 1.

    >>> print(square_loss(jnp.zeros((1, 4)), jnp.array([2])))
    [1.]
    """
    classes = outputs.shape[-1]
    target = jnp.sqrt(float(classes)) * jax.nn.one_hot(labels, classes)
    return jnp.mean(jnp.square(outputs.astype(target.dtype) - target), axis=-1)


def cross_entropy_loss(
    outputs: Float[Array, "*batch classes"], labels: Int[Array, " *batch"]
) -> Float[Array, " *batch"]:
    """Cross-entropy in nats of the softmax of the outputs.

    >>> print(jnp.exp(cross_entropy_loss(jnp.zeros((1, 4)), jnp.array([2]))))
    [4.]
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def is_correct(
    outputs: Float[Array, "*batch classes"], labels: Int[Array, " *batch"]
) -> Float[Array, " *batch"]:
    """1 where the largest output is the label's, else 0; its mean is the accuracy."""
    return (jnp.argmax(outputs, axis=-1) == labels).astype(jnp.float32)


LossName = Literal["square", "cross_entropy"]
# To add a loss, add its row, and its name above: command line, comparisons and checks
# read this table.
LOSSES: dict[str, Loss] = {
    "square": square_loss,
    "cross_entropy": cross_entropy_loss,
}
