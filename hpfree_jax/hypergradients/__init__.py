"""Hyperparameters that adapt themselves while training: HD, RTHO and MARTHE."""

from hpfree_jax.hypergradients._aliases import hd as hd
from hpfree_jax.hypergradients._aliases import marthe as marthe
from hpfree_jax.hypergradients._aliases import rtho as rtho
from hpfree_jax.hypergradients._hypergradient import (
    HypergradientState as HypergradientState,
)
from hpfree_jax.hypergradients._hypergradient import hypergradient as hypergradient
from hpfree_jax.hypergradients._search import (
    find_hyper_learning_rate as find_hyper_learning_rate,
)
from hpfree_jax.hypergradients._tangent import Tangent as Tangent
