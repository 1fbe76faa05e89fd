"""Checks of the sizes that models are given."""

from collections.abc import Iterable, Sequence


def check_sizes(**sizes: int) -> None:
    """Raises ValueError, naming the argument, unless all sizes are positive."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")


def check_image(shape: Sequence[int], smallest: int = 1, multiple_of: int = 1) -> None:
    """Raises ValueError unless the shape is that of an image which can be shrunk.

    Args:
      shape: of one example, to be (height, width, channels).
      smallest: the least height and width.
      multiple_of: what divides height and width.
    """
    expected = "(height, width, channels)"
    if smallest > 1:
        expected += f" of at least {smallest} x {smallest} pixels"
    if multiple_of > 1:
        expected += f" whose height and width are multiples of {multiple_of}"
    sizes = tuple(shape)[:2]
    if (
        len(shape) != 3
        or min(sizes) < smallest
        or any(size % multiple_of for size in sizes)
    ):
        raise ValueError(f"images must be {expected}, got the shape {tuple(shape)}.")


def check_depth(depth: int, depths: Iterable[int]) -> None:
    """Raises ValueError unless there is a network of that many layers."""
    if depth not in depths:
        choices = ", ".join(map(str, depths))
        raise ValueError(f"`depth` must be one of {choices}, got {depth}.")


def check_rate(**rates: float) -> None:
    """Raises ValueError, naming the argument, unless all rates lie in [0, 1)."""
    for name, value in rates.items():
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must lie in [0, 1), got {value}.")


def check_stages(depth: int) -> None:
    """Raises ValueError unless three stages of two layers a block make the depth."""
    if depth < 10 or depth % 6 != 4:
        raise ValueError(
            f"`depth` must be a multiple of 6 plus 4 (10, 16, 22, 28, ...), got "
            f"{depth}."
        )
