"""Texts that are opened: characters that TFDS stores, and files of tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.data._entry import DatasetEntry, Directory
from hpfree_jax.data._pickles import read_pickle
from hpfree_jax.data._stored import opened
from hpfree_jax.data._tokens import TokenDataset


def open_text(
    entry: DatasetEntry, name: str, data_dir: Directory, context: int
) -> TokenDataset:
    """Opens a text that TFDS stores, as characters."""
    with opened(entry, name, data_dir) as builder:
        train, validation = (
            builder.as_data_source(split=split)[0]["text"].decode()
            for split in ("train", "validation")
        )
    return character_dataset(name, train, validation, context)


def character_dataset(
    name: str, train: str, validation: str, context: int
) -> TokenDataset:
    """Makes a dataset whose tokens are characters, numbered in order of their codes.

    >>> data = character_dataset("abc", "abracadabra", "cab", context=2)
    >>> print(data.vocabulary, data.test_tokens, data.decode([1, 0]))
    abcdr [2 0 1] ba
    """
    codes = [
        np.frombuffer(text.encode("utf-32-le"), "<u4") for text in (train, validation)
    ]
    characters = np.unique(np.concatenate(codes))
    small = np.uint8 if len(characters) <= 256 else np.uint16
    first, second = (np.searchsorted(characters, code).astype(small) for code in codes)
    vocabulary = "".join(map(chr, characters))
    return TokenDataset(name, first, second, len(vocabulary), context, vocabulary)


def read_token_files(folder: Path, context: int) -> TokenDataset:
    """Opens nanoGPT's ``train.bin`` and ``val.bin``: 16-bit tokens, one after another.

    The size of the vocabulary is that of ``meta.json`` (``{"vocab_size": 50257}``) or
    of ``meta.pkl``, of which only numbers, strings and containers are read, else the
    largest token of both files plus 1. Both files are read once for that: on the
    device, a token that is too large would silently be looked up as another one.

    Raises:
      UserError: if a file is missing, damaged or too short.
    """
    train, validation = (
        _map_tokens(folder / name) for name in ("train.bin", "val.bin")
    )
    largest = max(_largest(train), _largest(validation))
    size, vocabulary = _read_meta(folder)
    if size is not None and largest >= size:
        raise UserError(
            f"{folder} has tokens up to {largest}, but its meta file has a vocabulary "
            f"of {size}; make both by the same program"
        )
    return TokenDataset(
        str(folder), train, validation, size or largest + 1, context, vocabulary
    )


def _map_tokens(path: Path) -> np.ndarray:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"there is no token file {path}; a folder of tokens holds train.bin and "
            "val.bin, as nanoGPT's prepare.py writes them"
        ) from error
    if size == 0 or size % 2:
        raise UserError(
            f"{path} has {size} bytes, which are not whole 16-bit tokens; it was cut "
            "off, so write it again"
        )
    return np.memmap(path, "<u2", mode="r")


def _largest(tokens: np.ndarray, block: int = 2**24) -> int:
    starts = range(0, len(tokens), block)
    return max(int(tokens[start : start + block].max()) for start in starts)


def _read_meta(folder: Path) -> tuple[int | None, str | None]:
    """Returns the size of the vocabulary and its characters, where they are given."""
    for name, read in (("meta.json", _read_json), ("meta.pkl", read_pickle)):
        path = folder / name
        if not path.exists():
            continue
        meta = read(path)
        size = meta.get("vocab_size") if isinstance(meta, dict) else None
        if not isinstance(size, int) or not 0 < size <= 2**16:
            raise UserError(
                f"{path} has no `vocab_size` from 1 to 65536 (it has {size}); correct "
                "or remove it"
            )
        return size, _characters_of(meta.get("itos"), size)
    return None, None


def _characters_of(itos: Any, size: int) -> str | None:
    """Returns nanoGPT's table from tokens to characters as one string, if it is one."""
    if not isinstance(itos, dict):
        return None
    strings = [itos.get(token) for token in range(size)]
    characters = [s for s in strings if isinstance(s, str) and len(s) == 1]
    return "".join(characters) if len(characters) == size else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
