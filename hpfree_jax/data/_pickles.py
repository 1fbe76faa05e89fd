"""Reading pickles that others made, without running what they hold.

A pickle is a program: it can name any function and call it. Here only those few names
are looked up that NumPy needs to rebuild an array; any other ends the reading.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hpfree_jax._errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """What stands for bytes in a pickle of Python 3 that Python 2 can read."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode(encoding)


# Taken from arrays and not from NumPy's modules, as these are private.
_FUNCTIONS = {
    ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
}
_ALLOWED = {
    # Older versions of NumPy name their modules `numpy.core`.
    **{
        (f"numpy.{core}.{module}", name): function
        for (module, name), function in _FUNCTIONS.items()
        for core in ("core", "_core")
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_pickle(path: Path) -> Any:
    """Returns the numbers, strings, containers and arrays of a pickle.

    Raises:
      UserError: if it is damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    except Exception as error:  # pickle raises nearly anything of damaged bytes
        raise UserError(
            f"{path} is no pickle of plain values and arrays ({error}), and nothing "
            "else is unpickled, as a pickle can run any program; take the original file"
        ) from error
