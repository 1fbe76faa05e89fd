"""AutoWU: warm-up length and peak learning rate found by a Gaussian process."""

from hpfree_jax.warmup._autowu import autowu as autowu
from hpfree_jax.warmup._autowu import scale_by_autowu as scale_by_autowu
from hpfree_jax.warmup._state import AutoWUState as AutoWUState
from hpfree_jax.warmup._state import Posterior as Posterior
from hpfree_jax.warmup._state import posterior as posterior
