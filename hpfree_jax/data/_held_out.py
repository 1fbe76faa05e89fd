"""What is not trained on: test data, and a part of the training data."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from hpfree_jax._errors import UserError
from hpfree_jax.data import Dataset, StreamingDataset, TokenDataset

AnyDataset = Dataset | StreamingDataset | TokenDataset

# What the seed's key is folded with; 0 and 1 are as good as its two halves.
HELD_OUT, VALIDATION_ORDER, AUGMENTATION, SAMPLE = 2, 3, 4, 5

TEST_WINDOWS = 2048  # of a long text, in an evaluation


class Examples(NamedTuple):
    """Images and labels, on the host or on the device.

    Of a text, windows of tokens and the tokens that follow: int32, (examples, context).
    """

    images: Int[Array | np.ndarray, " examples *shape"]
    labels: Int[Array | np.ndarray, " examples *context"]


def evaluation_examples(
    dataset: Dataset | TokenDataset, limit: int | None = None
) -> Examples:
    """Returns the examples of an evaluation, evenly spread over the test data.

    Args:
      dataset: the data.
      limit: how many; None: all, of a text at most :data:`TEST_WINDOWS`.
    """
    rows = np.arange(dataset.num_test)
    if isinstance(dataset, TokenDataset):
        limit = limit or TEST_WINDOWS
    if limit is not None and limit < len(rows):
        rows = np.arange(limit) * len(rows) // limit
    if isinstance(dataset, TokenDataset):
        return _windows(dataset.test_tokens, dataset.context, rows)
    images, labels = dataset.test_arrays
    if len(rows) == len(labels):
        return Examples(images, labels)
    return Examples(images[rows], labels[rows])


def hold_out(
    dataset: AnyDataset, fraction: float, seed: int
) -> tuple[AnyDataset, Examples | None]:
    """Takes a share out of the training data; the test data stays as it is.

    Of images, a random share; pixels stay normalised by the mean and the variance of
    all the training data. Of a text, its end, cut into windows one after another.

    Args:
      dataset: the data.
      fraction: the share, in [0, 1); 0 holds nothing out.
      seed: which images; the same seed gives the same ones.

    Returns:
      The data without the examples held out, and these, None if there are none.

    Raises:
      UserError: if the share is less than an example, or leaves none; if the data are
        read while training.
    """
    if fraction == 0:
        return dataset, None
    if isinstance(dataset, StreamingDataset) or not is_resident(dataset):
        raise UserError(
            f"`validation_fraction` {fraction:g}: dataset {dataset.name} is read while "
            "training, and nothing of it can be held out; take 0"
        )
    if isinstance(dataset, TokenDataset):
        return _hold_out_text(dataset, fraction)
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


def is_resident(dataset: AnyDataset) -> bool:
    """Whether the training data lies on the device."""
    if isinstance(dataset, TokenDataset):
        return dataset.is_resident
    return isinstance(dataset, Dataset)


def _hold_out_text(
    dataset: TokenDataset, fraction: float
) -> tuple[TokenDataset, Examples]:
    tokens, context = dataset.train_tokens, dataset.context
    size = round(fraction * len(tokens))
    if min(size, len(tokens) - size) <= context:
        raise UserError(
            f"`validation_fraction` {fraction:g} holds out {size} of the {len(tokens)} "
            f"training tokens of {dataset.name}; both parts must be longer than the "
            f"`context` of {context}"
        )
    rest, end = np.split(tokens, [len(tokens) - size])
    rows = np.arange((size - 1) // context)
    return dataclasses.replace(dataset, train_tokens=rest), _windows(end, context, rows)


def _windows(tokens: np.ndarray, context: int, rows: np.ndarray) -> Examples:
    """The windows of these numbers, of those that follow one another in a text."""
    found = tokens[rows[:, None] * context + np.arange(context + 1)].astype(np.int32)
    return Examples(found[:, :-1], found[:, 1:])
