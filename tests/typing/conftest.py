"""The files here are for pyright to read; pytest must not import them."""

collect_ignore_glob = ["*.py"]
