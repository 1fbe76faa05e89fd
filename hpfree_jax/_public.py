"""The names of ``import hpfree_jax as hp``."""

from hpfree_jax import architecture as architecture
from hpfree_jax import initializers as initializers
from hpfree_jax._auto import AutoState as AutoState
from hpfree_jax._auto import auto as auto
from hpfree_jax._learning_rate import get_learning_rate as get_learning_rate
from hpfree_jax.architecture import Architecture as Architecture
from hpfree_jax.architecture import Dag as Dag
from hpfree_jax.architecture import find_max_learning_rate as find_max_learning_rate
from hpfree_jax.architecture import initialize as initialize
from hpfree_jax.architecture import parse_dag as parse_dag
from hpfree_jax.architecture import parse_nas_bench_201 as parse_nas_bench_201
from hpfree_jax.architecture import scale_learning_rate as scale_learning_rate
from hpfree_jax.architecture import trace_architecture as trace_architecture
from hpfree_jax.descent import AGDState as AGDState
from hpfree_jax.descent import SteepestDescentState as SteepestDescentState
from hpfree_jax.descent import agd as agd
from hpfree_jax.descent import scale_by_agd as scale_by_agd
from hpfree_jax.descent import scale_by_steepest_descent as scale_by_steepest_descent
from hpfree_jax.hypergradients import HypergradientState as HypergradientState
from hpfree_jax.hypergradients import (
    find_hyper_learning_rate as find_hyper_learning_rate,
)
from hpfree_jax.hypergradients import hd as hd
from hpfree_jax.hypergradients import hypergradient as hypergradient
from hpfree_jax.hypergradients import marthe as marthe
from hpfree_jax.hypergradients import rtho as rtho
from hpfree_jax.layouts import Layout as Layout
from hpfree_jax.layouts import Matrix as Matrix
from hpfree_jax.layouts import Vector as Vector
from hpfree_jax.layouts import infer_layout as infer_layout
from hpfree_jax.warmup import AutoWUState as AutoWUState
from hpfree_jax.warmup import autowu as autowu
from hpfree_jax.warmup import scale_by_autowu as scale_by_autowu
