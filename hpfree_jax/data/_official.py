"""Datasets of TFDS's own catalogue, prepared without TensorFlow.

TFDS downloads, checks and stores; only its parsing of the downloaded files (a few
lines per dataset) goes through TensorFlow, and is done here with NumPy instead.
"""

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hpfree_jax._user_input import UserError
from hpfree_jax.data._digits import encode_png


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
    index = 0
    for path in filepaths:
        records = np.frombuffer(Path(path).read_bytes(), np.uint8).reshape(-1, 3073)
        for record in records:
            image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            label = int(record[0])
            yield (
                index,
                {
                    "id": f"{split_prefix}{index:05d}",
                    "image": encode_png(image),
                    "label": label,
                },
            )
            index += 1


EXAMPLES = {"mnist": mnist_examples, "cifar10": cifar10_examples}
HOSTS = {"mnist": "storage.googleapis.com", "cifar10": "www.cs.toronto.edu"}


def prepare(builder: Any) -> None:
    """Downloads a dataset of :data:`EXAMPLES` and stores it in the TFDS directory.

    Raises:
      UserError: without a network, or if the download fails.
    """
    remedy = (
        "run this once with a network, or point --data-dir to a TFDS directory that "
        f"holds a prepared {builder.name} (such as ../shared/tfds)"
    )
    missing = f"dataset {builder.name} is not prepared in {builder.data_dir}"
    if not _can_reach(HOSTS[builder.name]):
        # Found out at once; TFDS would retry for minutes.
        raise UserError(f"{missing} and there is no network to download it: {remedy}")
    builder._generate_examples = EXAMPLES[builder.name]
    print(f"{builder.name}: downloading to {builder.data_dir} (once)", flush=True)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except Exception as error:  # whatever a network, a disk or a server can do
        raise UserError(
            f"{missing} and its download failed ({type(error).__name__}: {error}): "
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
