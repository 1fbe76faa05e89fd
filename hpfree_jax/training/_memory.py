"""Errors of models and batches that do not fit into memory, as one line."""

import contextlib
import math
import os
from collections.abc import Iterator

import jax
from jaxtyping import PyTree

from hpfree_jax._errors import UserError


@contextlib.contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Turns what Python, NumPy and JAX raise at impossible sizes into a UserError.

    Args:
      what: the beginning of the message, such as "model fcn is too large".
      remedy: its end, what to do.
    """
    try:
        yield
    except UserError:
        raise
    except (MemoryError, NotImplementedError, OverflowError) as error:
        raise _too_large(what, remedy, error) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(what, remedy, error) from error


def _too_large(what: str, remedy: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{what} ({type(error).__name__}: {reason}); {remedy}")


def check_state_fits(shapes: PyTree[jax.ShapeDtypeStruct]) -> None:
    """Raises MemoryError if a training state exceeds the memory of the machine.

    Only shapes are needed: at some sizes XLA does not raise, it aborts.
    """
    leaves = jax.tree.leaves(shapes)
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    if size > (available := _memory()):
        raise MemoryError(
            f"parameters and optimizer state take {size / 1e9:,.1f} GB of "
            f"{available / 1e9:,.1f} GB"
        )


def _memory() -> float:
    """Returns the machine's memory in bytes; infinity where it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf
