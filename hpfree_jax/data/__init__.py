"""Datasets from TensorFlow Datasets, read without TensorFlow: arrays and streams."""

from hpfree_jax._errors import needs_extra

with needs_extra("hpfree_jax.data", "train", "rich", "tensorflow_datasets"):
    from hpfree_jax.data._any_dataset import AnyDataset as AnyDataset
    from hpfree_jax.data._any_dataset import DatasetBase as DatasetBase
    from hpfree_jax.data._any_dataset import Examples as Examples
    from hpfree_jax.data._augmentation import Augmentation as Augmentation
    from hpfree_jax.data._batches import Batch as Batch
    from hpfree_jax.data._batches import BatchStream as BatchStream
    from hpfree_jax.data._dataset import Dataset as Dataset
    from hpfree_jax.data._entry import DatasetEntry as DatasetEntry
    from hpfree_jax.data._listing import list_datasets as list_datasets
    from hpfree_jax.data._listing import print_datasets as print_datasets
    from hpfree_jax.data._registry import DATASETS as DATASETS
    from hpfree_jax.data._registry import dataset_kind as dataset_kind
    from hpfree_jax.data._registry import load_dataset as load_dataset
    from hpfree_jax.data._registry import load_tokens as load_tokens
    from hpfree_jax.data._registry import open_dataset as open_dataset
    from hpfree_jax.data._registry import open_stream as open_stream
    from hpfree_jax.data._registry import register_dataset as register_dataset
    from hpfree_jax.data._stream import StreamingDataset as StreamingDataset
    from hpfree_jax.data._tokens import TokenDataset as TokenDataset
