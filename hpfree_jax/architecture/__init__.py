"""The graph of a model's layers, and what follows from it."""

from hpfree_jax.architecture._graph import Architecture as Architecture
from hpfree_jax.architecture._graph import Layer as Layer
from hpfree_jax.architecture._graph import LeafAxes as LeafAxes
from hpfree_jax.architecture._graph import Node as Node
from hpfree_jax.architecture._graph import VectorLeaf as VectorLeaf
from hpfree_jax.architecture._trace import trace_architecture as trace_architecture
