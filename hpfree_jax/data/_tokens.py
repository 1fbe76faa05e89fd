"""Texts as token numbers, from which windows are drawn at random."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from hpfree_jax._errors import UserError
from hpfree_jax.data._any_dataset import DatasetBase, Examples, evenly_spread
from hpfree_jax.data._batches import (
    Batch,
    BatchStream,
    choose_shard,
    choose_workers,
)

RESIDENT_BYTES = 2**30  # longer texts stay in their file
TEST_WINDOWS = 2048  # in an evaluation, unless a limit is given


@dataclasses.dataclass(frozen=True, eq=False)
class TokenDataset(DatasetBase):
    """The tokens of a training and a validation text.

    An example is a window of ``context`` tokens, its targets the same window one
    token further. For training, windows begin anywhere; an epoch is as many of them
    as would cover the text once. For tests, they cover the validation text in order.
    """

    name: str
    train_tokens: np.ndarray  # unsigned integers, (tokens,); may be a memory map
    test_tokens: np.ndarray  # the same, of the validation text
    num_classes: int  # size of the vocabulary: tokens are 0 to this minus 1
    context: int
    vocabulary: str | None = None  # the character of each token, if they are characters

    def __post_init__(self) -> None:
        if self.context < 1:
            raise UserError(f"`context` must be 1 or more, got {self.context}")
        shortest = min(len(self.train_tokens), len(self.test_tokens))
        if shortest <= self.context:
            raise UserError(
                f"`context` {self.context} does not fit into dataset {self.name}: its "
                f"shorter text has {shortest} tokens; take at most {shortest - 1}"
            )

    @property
    def input_shape(self) -> tuple[int]:
        """Shape of one example, of int32 tokens."""
        return (self.context,)

    @property
    def is_text(self) -> bool:
        """Whether an example is a window of tokens, each with its own target."""
        return True

    @property
    def is_evaluation_resident(self) -> bool:
        """Whether the batches of an evaluation may stay on the device."""
        return True  # TEST_WINDOWS are few

    @property
    def is_resident(self) -> bool:
        """Whether the texts are small enough for the device, and :meth:`take`."""
        sizes = (tokens.nbytes for tokens in (self.train_tokens, self.test_tokens))
        return max(sizes) <= RESIDENT_BYTES

    @property
    def num_train(self) -> int:
        """Windows of a training epoch."""
        return (len(self.train_tokens) - 1) // self.context

    @property
    def num_test(self) -> int:
        """Windows of the validation text; what is left at its end is not used."""
        return (len(self.test_tokens) - 1) // self.context

    @property
    def train_arrays(self) -> np.ndarray:
        """What to put on the device, for :meth:`take`."""
        return self.train_tokens

    @property
    def test_arrays(self) -> np.ndarray:
        """The same of the validation text."""
        return self.test_tokens

    def epoch_order(self, key: Key[Array, ""]) -> Int[Array, " windows"]:
        """Draws where the windows of an epoch begin, uniformly and independently."""
        last = len(self.train_tokens) - self.context
        return jax.random.randint(key, (self.num_train,), 0, last)

    def test_order(self) -> Int[np.ndarray, " windows"]:
        """Where the windows begin that cover the validation text once."""
        return np.arange(self.num_test, dtype=np.int32) * self.context

    def take(self, arrays, index: Int[Array, " batch"]) -> Batch:
        """Gathers windows, in a traced step, from tokens on the device."""
        window = arrays[index[:, None] + jnp.arange(self.context + 1)]
        window = window.astype(jnp.int32)
        return Batch(window[:, :-1], window[:, 1:], jnp.ones(len(index)))

    def prepare(self, tokens, key: Key[Array, ""] | None = None) -> jax.Array:
        """Returns a model's inputs: the tokens as they are."""
        del key
        return jnp.asarray(tokens)

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        *,
        workers: int | None = None,
        process: tuple[int, int] | None = None,
    ) -> BatchStream:
        """Returns an endless stream of random windows, read from the file.

        Arguments and errors are those of :meth:`StreamingDataset.train_batches`.
        """
        shard = choose_shard(process)
        share = shard.of(batch_size)
        last = len(self.train_tokens) - self.context

        def read(number: int) -> Batch:
            rng = np.random.default_rng([seed, number])
            starts = rng.integers(last, size=batch_size)
            own = starts[shard.index * share : (shard.index + 1) * share]
            return self._windows(self.train_tokens, own, share)

        identity = {
            "dataset": self.name,
            "num_tokens": len(self.train_tokens),
            "context": self.context,
            "batch_size": batch_size,
            "seed": seed,
            "processes": shard.count,
        }
        return BatchStream(read, identity, choose_workers(workers))

    def test_batches(
        self, batch_size: int, *, process: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """Yields the windows of the validation text once, filled up with weight 0."""
        shard = choose_shard(process)
        share = shard.of(batch_size)
        for start in range(0, self.num_test, batch_size):
            first = start + shard.index * share
            own = np.arange(first, min(first + share, self.num_test)) * self.context
            yield self._windows(self.test_tokens, own, share)

    def _windows(self, tokens: np.ndarray, starts: np.ndarray, share: int) -> Batch:
        window = np.zeros((share, self.context + 1), np.int32)
        window[: len(starts)] = tokens[starts[:, None] + np.arange(self.context + 1)]
        weights = (np.arange(share) < len(starts)).astype(np.float32)
        return Batch(window[:, :-1], window[:, 1:], weights)

    def evaluation_examples(self, limit: int | None = None) -> Examples:
        """Returns windows evenly spread over the validation text.

        Args:
          limit: how many; None: at most 2,048.
        """
        rows = evenly_spread(self.num_test, limit or TEST_WINDOWS)
        return _examples(self.test_tokens, self.context, rows)

    def evaluation_batches(
        self, batch_size: int, limit: int | None = None
    ) -> list[Batch]:
        """Returns :meth:`evaluation_examples` in batches of one shape."""
        return self.evaluation_examples(limit).batches(batch_size)

    def hold_out(self, fraction: float, seed: int) -> tuple[Self, Examples | None]:
        """Splits the end off the training text, in consecutive windows.

        Args:
          fraction: of the tokens, in [0, 1); 0 holds nothing out.
          seed: not used, since nothing is drawn.

        Returns:
          The dataset without the end of its text, and the windows of it; None if the
          fraction is 0.

        Raises:
          UserError: if either part is not longer than the context.
        """
        del seed
        if fraction == 0:
            return self, None
        tokens = self.train_tokens
        size = round(fraction * len(tokens))
        if min(size, len(tokens) - size) <= self.context:
            raise UserError(
                f"`validation_fraction` {fraction:g} holds out {size} of the "
                f"{len(tokens)} training tokens of {self.name}; both parts must be "
                f"longer than the `context` of {self.context}"
            )
        rest, end = np.split(tokens, [len(tokens) - size])
        rows = np.arange((size - 1) // self.context)
        remaining = dataclasses.replace(self, train_tokens=rest)
        return remaining, _examples(end, self.context, rows)

    def with_context(self, context: int) -> Self:
        """Returns the dataset with windows of another length, on the same arrays."""
        return dataclasses.replace(self, context=context)

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of a text, int32.

        Raises:
          UserError: of tokens that are no characters, or of an unknown character.
        """
        place = {c: i for i, c in enumerate(self._characters())}
        unknown = sorted(set(text) - place.keys())
        if unknown:
            raise UserError(
                f"dataset {self.name} has no character {unknown[0]!r}; it has "
                f"{self.vocabulary!r}"
            )
        return np.array([place[c] for c in text], np.int32)

    def decode(self, tokens: Any) -> str:
        """Returns the text of tokens. Raises UserError as :meth:`encode`."""
        characters = self._characters()
        return "".join(characters[int(token)] for token in np.asarray(tokens).ravel())

    def _characters(self) -> str:
        if self.vocabulary is None:
            raise UserError(
                f"the tokens of dataset {self.name} are no characters; use the "
                "tokenizer that made them"
            )
        return self.vocabulary


def _examples(tokens: np.ndarray, context: int, rows: np.ndarray) -> Examples:
    """Of the windows that follow one another in a text, those of these numbers."""
    found = tokens[rows[:, None] * context + np.arange(context + 1)].astype(np.int32)
    return Examples(found[:, :-1], found[:, 1:])
