"""Layouts: which axes of a parameter are inputs, outputs and kernel positions."""

from hpfree_jax.layouts._infer import infer_layout as infer_layout
from hpfree_jax.layouts._layout import Layout as Layout
from hpfree_jax.layouts._layout import Matrix as Matrix
from hpfree_jax.layouts._layout import Vector as Vector
from hpfree_jax.layouts._layout import check_layout as check_layout
