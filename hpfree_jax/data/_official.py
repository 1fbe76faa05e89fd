"""Datasets of TFDS's own catalogue, prepared without TensorFlow.

TFDS downloads, checks and stores; only its parsing of the downloaded files (a few
lines per dataset) goes through TensorFlow, and is done here with NumPy instead.
"""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from hpfree_jax._errors import UserError
from hpfree_jax.data import _imagenet16, _imagenet2012
from hpfree_jax.data._codec import encode_png


def mnist_examples(num_examples, data_path, label_path):
    """Parses the two IDX files of a split of MNIST: a header, then bytes."""
    images = np.frombuffer(Path(data_path).read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer(Path(label_path).read_bytes(), np.uint8, offset=8)
    images = images.reshape(-1, 28, 28)[:num_examples]
    for index, (image, label) in enumerate(
        zip(images, labels[:num_examples], strict=True)
    ):
        yield index, {"image": encode_png(image), "label": int(label)}


def cifar10_examples(split_prefix, filepaths):
    """Parses the binary files of CIFAR-10: records of a label and three planes."""
    return _cifar_examples(split_prefix, filepaths, ("label",))


def cifar100_examples(split_prefix, filepaths):
    """Parses those of CIFAR-100, whose records begin with the label of a group."""
    return _cifar_examples(split_prefix, filepaths, ("coarse_label", "label"))


def _cifar_examples(split_prefix, filepaths, labels):
    index = 0
    for path in filepaths:
        content = np.frombuffer(Path(path).read_bytes(), np.uint8)
        for record in content.reshape(-1, len(labels) + 3072):
            image = record[len(labels) :].reshape(3, 32, 32).transpose(1, 2, 0)
            example = {"id": f"{split_prefix}{index:05d}", "image": encode_png(image)}
            example |= {name: int(record[i]) for i, name in enumerate(labels)}
            yield index, example
            index += 1


def tiny_shakespeare_splits(dl_manager) -> dict[str, Iterator]:
    """Downloads the text and cuts it as TFDS does: 90, 5 and 5 percent."""
    url = f"https://{RECIPES['tiny_shakespeare'].host}/karpathy/char-rnn/master/data"
    path = dl_manager.download(f"{url}/tinyshakespeare/input.txt")
    text = Path(path).read_text(encoding="utf-8")
    first = int(len(text) * 0.9)
    second = first + int(len(text[first:]) * 0.5)
    parts = {
        "train": text[:first],
        "validation": text[first:second],
        "test": text[second:],
    }
    return {name: iter([(name, {"text": part})]) for name, part in parts.items()}


class Recipe(NamedTuple):
    """How a dataset is prepared; what is None is TFDS's own."""

    examples: Callable | None = None  # the builder's _generate_examples
    splits: Callable | None = None  # its _split_generators
    host: str | None = None  # of the download
    manual: tuple[str, ...] = ()  # files to fetch by hand, below downloads/manual
    origin: str = ""  # where such files are from


RECIPES = {
    "mnist": Recipe(mnist_examples, host="storage.googleapis.com"),
    "fashion_mnist": Recipe(
        mnist_examples, host="fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    ),
    "cifar10": Recipe(cifar10_examples, host="www.cs.toronto.edu"),
    "cifar100": Recipe(cifar100_examples, host="www.cs.toronto.edu"),
    "tiny_shakespeare": Recipe(
        splits=tiny_shakespeare_splits, host="raw.githubusercontent.com"
    ),
    "imagenet2012": Recipe(
        splits=_imagenet2012.split_generators,
        manual=_imagenet2012.ARCHIVES,
        origin="image-net.org, after registration",
    ),
    "imagenet16_120": Recipe(
        manual=tuple(
            f"{_imagenet16.FOLDER}/{name}"
            for files in _imagenet16.CHECKSUMS.values()
            for name in files
        ),
        origin="the 16 x 16 downloads of image-net.org, unpacked",
    ),
}


def prepare(builder: Any) -> None:
    """Fetches a dataset of :data:`RECIPES` and stores it in the TFDS directory.

    Raises:
      UserError: without a network or the files that it needs, if the download fails,
        or if anything in the files is damaged; nothing is stored then.
    """
    recipe = RECIPES[builder.name]
    remedy = (
        "run this once with a network, or point --data-dir to a TFDS directory that "
        f"holds a prepared {builder.name}"
    )
    missing = f"dataset {builder.name} is not prepared in {builder.data_dir}"
    manual = Path(builder.data_dir).parent.parent / "downloads" / "manual"
    absent = [name for name in recipe.manual if not (manual / name).is_file()]
    if absent:
        files = ", ".join(absent[:2]) + (
            f" ... ({len(absent)} files)" * (len(absent) > 2)
        )
        raise UserError(
            f"{missing} and has no free download: put {files} "
            f"({recipe.origin}) into {manual} and run this again, or point --data-dir "
            "to a TFDS directory that holds it prepared"
        )
    if recipe.host and not _can_reach(recipe.host):
        # Found out at once; TFDS would retry for minutes.
        raise UserError(f"{missing} and there is no network to download it: {remedy}")
    if recipe.examples:
        builder._generate_examples = recipe.examples
    if recipe.splits:
        builder._split_generators = recipe.splits
    action = "downloading to" if recipe.host else "preparing in"
    print(f"{builder.name}: {action} {builder.data_dir} (once)", flush=True)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    if recipe.manual:
        config = config.replace(manual_dir=manual)
    try:
        builder.download_and_prepare(download_config=config)
    except UserError:
        raise
    except Exception as error:  # whatever a network, a disk or a server can do
        failed = "download" if recipe.host else "preparation"
        raise UserError(
            f"{missing} and its {failed} failed ({type(error).__name__}: {error}): "
            f"{remedy}"
        ) from error


def _can_reach(host: str) -> bool:
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if any(value and name.lower() in proxies for name, value in os.environ.items()):
        return True  # the proxy resolves names
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
