"""The fixtures of the tests of training, for whole runs with a method."""

from tests.training.conftest import (  # noqa: F401
    config,
    digits,
    interrupt_at,
    tfds_directory,
)
