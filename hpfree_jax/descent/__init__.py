"""Steepest descent under layerwise norms: AGD, and the direction alone."""

from hpfree_jax.descent._agd import AGDState as AGDState
from hpfree_jax.descent._agd import Norm as Norm
from hpfree_jax.descent._agd import agd as agd
from hpfree_jax.descent._agd import scale_by_agd as scale_by_agd
from hpfree_jax.descent._orthogonalize import (
    num_multiplications as num_multiplications,
)
from hpfree_jax.descent._steepest_descent import (
    SteepestDescentState as SteepestDescentState,
)
from hpfree_jax.descent._steepest_descent import (
    scale_by_steepest_descent as scale_by_steepest_descent,
)
