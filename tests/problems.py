"""Small problems that every method is tried on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {
    "fc1": {"kernel": (8, 16), "bias": (16,)},
    "fc2": {"kernel": (16, 8), "bias": (8,)},
}


def make_params(dtype=jnp.float32, seed=0):
    """Random parameters of a two-layer network, all axes divisible by 2 and by 4."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.normal(size=shape), dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def quadratic(params):
    """An ill-conditioned bowl with its minimum, 0, off the origin; any pytree.

    Elementwise, so that it also runs on leaves sharded along any axis.
    """
    losses = [
        curvature * jnp.mean((leaf.astype(float) - target) ** 2)
        for leaf, curvature, target in zip(
            jax.tree.leaves(params),
            itertools.cycle([1.0, 30.0]),
            itertools.cycle([0.25, -0.5, 1.0]),
            strict=False,
        )
    ]
    return sum(losses, start=jnp.zeros(()))
