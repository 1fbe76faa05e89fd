"""Initialisers with the signature of ``jax.nn.initializers``."""

from hpfree_jax.initializers._scaled_orthogonal import (
    scaled_orthogonal as scaled_orthogonal,
)
