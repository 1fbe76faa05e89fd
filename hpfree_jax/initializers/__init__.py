"""Initialisers with the signature of ``jax.nn.initializers``."""

from hpfree_jax.initializers._architecture_aware import (
    architecture_aware as architecture_aware,
)
from hpfree_jax.initializers._scaled_orthogonal import (
    scaled_orthogonal as scaled_orthogonal,
)
