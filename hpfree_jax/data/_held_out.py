"""Names that training and comparison still import from here."""

from hpfree_jax.data._any_dataset import HELD_OUT as HELD_OUT
from hpfree_jax.data._any_dataset import AnyDataset as AnyDataset
from hpfree_jax.data._any_dataset import Examples as Examples

# What the seed's key is folded with, beside HELD_OUT; 0 and 1 are as good as its two
# halves.
VALIDATION_ORDER, AUGMENTATION, SAMPLE = 3, 4, 5


def evaluation_examples(dataset, limit: int | None = None) -> Examples:
    """Returns the dataset's own."""
    return dataset.evaluation_examples(limit)


def hold_out(dataset, fraction: float, seed: int):
    """Returns the dataset's own."""
    return dataset.hold_out(fraction, seed)


def is_resident(dataset: AnyDataset) -> bool:
    """Returns the dataset's own."""
    return dataset.is_resident
