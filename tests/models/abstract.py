"""Models of chosen numbers, made without drawing any: nothing is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def filled(make):
    """The model that ``make()`` builds, in evaluation mode, with numbers from NumPy.

    Kernels are normal with variance 1 / fan-in; vectors and statistics lie between
    0.5 and 1.5, so that none of them has no effect.
    """
    graph, state = nnx.split(nnx.eval_shape(make))
    random = np.random.default_rng(0)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))
        if leaf.ndim == 1:
            values = random.uniform(0.5, 1.5, leaf.shape)
        else:
            fan_in = np.prod(leaf.shape[:-1])
            values = random.normal(size=leaf.shape) / np.sqrt(fan_in)
        return jnp.asarray(values.astype(np.float32).astype(leaf.dtype))

    model = nnx.merge(graph, jax.tree.map(fill, state))
    model.eval()
    return model
