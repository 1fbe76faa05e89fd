"""Datasets from TensorFlow Datasets, read without TensorFlow, as arrays."""

from hpfree_jax.data._registry import DATASETS as DATASETS
from hpfree_jax.data._registry import Dataset as Dataset
from hpfree_jax.data._registry import load_dataset as load_dataset
