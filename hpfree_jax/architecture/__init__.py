"""The graph of a model's layers, and what follows from it."""

from hpfree_jax.architecture._architecture import Architecture as Architecture
from hpfree_jax.architecture._dag import Dag as Dag
from hpfree_jax.architecture._dag import parse_dag as parse_dag
from hpfree_jax.architecture._dag import parse_nas_bench_201 as parse_nas_bench_201
from hpfree_jax.architecture._graph import Layer as Layer
from hpfree_jax.architecture._graph import LeafAxes as LeafAxes
from hpfree_jax.architecture._graph import Node as Node
from hpfree_jax.architecture._graph import VectorLeaf as VectorLeaf
from hpfree_jax.architecture._initialize import initialize as initialize
from hpfree_jax.architecture._scaling import (
    find_max_learning_rate as find_max_learning_rate,
)
from hpfree_jax.architecture._scaling import scale_learning_rate as scale_learning_rate
from hpfree_jax.architecture._to_layout import layout_of as layout_of
from hpfree_jax.architecture._tracer._trace import (
    trace_architecture as trace_architecture,
)
