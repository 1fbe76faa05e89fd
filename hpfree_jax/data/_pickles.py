"""Reading pickles that others made, without running what they hold.

A pickle is a program: it can name any function and call it. Here only those few names
are looked up that NumPy needs to rebuild an array; any other ends the reading.
"""

import _codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hpfree_jax._user_input import UserError

_RECONSTRUCT, _SCALAR = (x.__reduce__()[0] for x in (np.empty(0), np.float64(0)))
_ARRAYS = {
    # Arrays of older versions of NumPy name `numpy.core`.
    **{
        (f"numpy.{c}.multiarray", "_reconstruct"): _RECONSTRUCT
        for c in ("core", "_core")
    },
    **{(f"numpy.{c}.multiarray", "scalar"): _SCALAR for c in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs.encode,  # how Python 2 stores bytes
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return _ARRAYS[module, name]
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
