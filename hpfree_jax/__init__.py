"""Training without tuning: learning rates, schedules, warm-ups and initialisation.

The names are imported, and JAX with them, when the first of them is used (PEP 562), so
that ``hpfree --help`` answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hpfree_jax._public import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name == "__all__" or not name.startswith("_"):
            names = vars(importlib.import_module("hpfree_jax._public"))
            public = [key for key in names if not key.startswith("_")]
            globals().update({key: names[key] for key in public}, __all__=public)
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        __getattr__("__all__")
        return sorted(globals().keys() - {"Any", "TYPE_CHECKING", "importlib"})
