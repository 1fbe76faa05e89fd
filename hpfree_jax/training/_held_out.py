"""A part of the training data that is not trained on, but validated with."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

from hpfree_jax._user_input import UserError
from hpfree_jax.data import Dataset

# What the seed's key is folded with; 0 and 1 are as good as its two halves.
HELD_OUT, VALIDATION_ORDER = 2, 3


class Examples(NamedTuple):
    """Images and labels, on the host or on the device."""

    images: UInt8[Array | np.ndarray, " examples *shape"]
    labels: Int[Array | np.ndarray, " examples"]


def hold_out(
    dataset: Dataset, fraction: float, seed: int
) -> tuple[Dataset, Examples | None]:
    """Takes a random share out of the training data; the test data stays as it is.

    Pixels stay normalised by the mean and the variance of all the training data.

    Args:
      dataset: the data.
      fraction: the share, in [0, 1); 0 holds nothing out.
      seed: which examples; the same seed gives the same ones.

    Returns:
      The data without the examples held out, and these, None if there are none.

    Raises:
      UserError: if the share is less than an example, or leaves none.
    """
    if fraction == 0:
        return dataset, None
    total = len(dataset.train_labels)
    count = round(fraction * total)
    if not 0 < count < total:
        raise UserError(
            f"`validation_fraction` {fraction:g} holds out {count} of the {total} "
            f"training examples of {dataset.name}; take between {1 / total:.1g} and 1, "
            "or 0 to hold out nothing"
        )
    with jax.ensure_compile_time_eval():  # numbers, even where only shapes are asked
        key = jax.random.fold_in(jax.random.key(seed), HELD_OUT)
        order = np.asarray(jax.random.permutation(key, total))
    held_out, rest = np.sort(order[:count]), np.sort(order[count:])
    images, labels = dataset.train_images, dataset.train_labels
    remaining = dataclasses.replace(
        dataset, train_images=images[rest], train_labels=labels[rest]
    )
    return remaining, Examples(images[held_out], labels[held_out])
