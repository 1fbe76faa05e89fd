"""The dataset ``digits``: 1,797 real images that come with scikit-learn."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hpfree_jax.data._codec import encode_png


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits of 8 x 8 pixels, the test set of a UCI collection.

    Scikit-learn has them as counts of 0 to 16 black points; here they are scaled to
    bytes from 0 to 255. Every fifth example (index 4, 9, ...) is a test example.
    """

    # The metaclass of TFDS registers the class under this name.
    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=" ".join((type(self).__doc__ or "").split()),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download: scikit-learn ships the images
        return {"train": self._generate_examples(0), "test": self._generate_examples(1)}

    def _generate_examples(self, is_test):
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        for index, (image, label) in enumerate(
            zip(digits.images, digits.target, strict=True)
        ):
            if (index % 5 == 4) == bool(is_test):
                pixels = np.round(image * 255 / 16).astype(np.uint8)
                yield index, {"image": encode_png(pixels), "label": int(label)}
