"""Where the axes of an array come from, through transposes, reshapes and slices.

An axis of an array is a product of *factors* ``(labels, size)``, slowest first: the
part of size ``size`` comes from the source axes in ``labels``. Unknown or constant
parts have no label; several labels mean that the source axes are mixed beyond telling.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

Labels = frozenset[int]
Factor = tuple[Labels, int]
Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]

NO_LABELS: Labels = frozenset()
OUT: Final = -1  # label of the axes that a layer produces, on a signal
PRODUCED: Labels = frozenset({OUT})


def plain(shape: Sequence[int]) -> Dims:
    """Dims of an array that has no known source."""
    return tuple(((NO_LABELS, size),) for size in shape)


def labelled(shape: Sequence[int]) -> Dims:
    """Dims of a source itself: axis ``i`` carries the label ``i``."""
    return tuple(((frozenset({axis}), size),) for axis, size in enumerate(shape))


def produced(shape: Sequence[int], axes: Iterable[int]) -> Dims:
    """Dims of the output of a layer, which produces some of the axes."""
    chosen = set(axes)
    return tuple(
        ((PRODUCED if axis in chosen else NO_LABELS, size),)
        for axis, size in enumerate(shape)
    )


def labels_of(dim: Dim) -> Labels:
    """All source axes that an axis holds a part of."""
    return NO_LABELS.union(*(labels for labels, _ in dim))


def labels_along(dims: Dims, axes: Iterable[int] | None = None) -> Labels:
    """All source axes that some axes of an array, or all of them, hold a part of."""
    chosen = dims if axes is None else (dims[axis] for axis in axes)
    return NO_LABELS.union(*map(labels_of, chosen))


def size_of(dim: Dim) -> int:
    """The size of an axis."""
    return math.prod(size for _, size in dim)


def known_size(dim: Dim) -> int:
    """The size of the part of an axis that comes from the source."""
    return math.prod(size for labels, size in dim if labels)


def merge(first: Dims, second: Dims) -> Dims:
    """Dims of an elementwise combination of two arrays of the same shape."""
    if len(first) != len(second):  # a scalar and an array
        return max(first, second, key=len)
    return tuple(_merge_dim(a, b) for a, b in zip(first, second, strict=True))


def fit(dims: Dims, shape: Sequence[int]) -> Dims:
    """Dims of an array that is stretched to a shape by an elementwise operation."""
    if len(dims) != len(shape):
        return plain(shape)
    pairs = zip(dims, shape, strict=True)
    return tuple(
        dim if size_of(dim) == size else ((NO_LABELS, size),) for dim, size in pairs
    )


def _merge_dim(a: Dim, b: Dim) -> Dim:
    if size_of(a) != size_of(b):  # an axis of size 1 is stretched
        return max(a, b, key=size_of)
    if a == b or not labels_of(b):
        return a
    if not labels_of(a):
        return b
    return ((labels_of(a) | labels_of(b), size_of(a)),)


def reshape(dims: Dims, shape: Sequence[int]) -> Dims:
    """Dims after a row-major reshape to a new shape."""
    if 0 in shape:
        return plain(shape)
    start = 0
    while start < min(len(dims), len(shape)) and size_of(dims[start]) == shape[start]:
        start += 1
    stop = 0  # axes kept at the end
    while (
        stop < min(len(dims), len(shape)) - start
        and size_of(dims[-1 - stop]) == shape[-1 - stop]
    ):
        stop += 1
    middle = dims[start : len(dims) - stop]
    new = _regroup(
        [factor for dim in middle for factor in dim if factor[1] > 1],
        shape[start : len(shape) - stop],
    )
    return (*dims[:start], *new, *dims[len(dims) - stop :])


def _regroup(factors: list[Factor], shape: Sequence[int]) -> Iterable[Dim]:
    factors = factors[::-1]  # a stack: the slowest factor is on top
    for size in shape:
        found: list[Factor] = []
        missing = size
        while missing > 1:
            labels, available = factors.pop()
            if missing % available == 0:
                found.append((labels, available))
                missing //= available
            elif available % missing == 0:
                found.append((labels, missing))
                factors.append((labels, available // missing))
                missing = 1
            else:  # the boundary falls inside: the two sources mix
                more_labels, more = factors.pop()
                factors.append((labels | more_labels, available * more))
        yield _join_equal(found) or ((NO_LABELS, size),)


def _join_equal(factors: Iterable[Factor]) -> Dim:
    joined: list[Factor] = []
    for labels, size in factors:
        if joined and joined[-1][0] == labels:
            joined[-1] = (labels, joined[-1][1] * size)
        else:
            joined.append((labels, size))
    return tuple(joined)


def resize(dim: Dim, size: int, *, start: int = 0, stride: int = 1) -> Dim:
    """An axis after slicing (or padding) it to a new size."""
    if size == size_of(dim) and stride == 1 and start == 0:
        return dim
    (labels, _), *inner = dim
    step = math.prod(s for _, s in inner)
    if inner and stride == 1 and start % step == 0 and size % step == 0 and size:
        return ((labels, size // step), *inner)
    return ((labels_of(dim), size),)


def broadcast(dims: Dims, shape: Sequence[int], positions: Sequence[int]) -> Dims:
    """Dims after ``broadcast_in_dim``: axis ``i`` goes to ``positions[i]``."""
    new = list(plain(shape))
    for dim, position in zip(dims, positions, strict=True):
        if size_of(dim) == shape[position]:
            new[position] = dim
    return tuple(new)


class Moved(NamedTuple):
    """What a structural operation makes of the axes of its operand."""

    outputs: tuple[Dims, ...]
    squeezed: Labels = NO_LABELS  # source axes that went with a squeezed axis
    reduced: Labels = NO_LABELS  # source axes that were summed (or maximised) over
    # Parts of source axes that were picked: (axis of the operand, start, size).
    # The start is None where it is not known at trace time.
    slices: tuple[tuple[tuple[int, int | None, int], ...], ...] = ()


def cut(
    dims: Dims,
    shape: Sequence[int],
    starts: Sequence[int | None],
    strides: Sequence[int] | None = None,
) -> Moved:
    """Cuts an array to a shape; None is a start that is not known at trace time."""
    new, slices = [], []
    for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        start, stride = starts[axis], strides[axis] if strides else 1
        if size == size_of(dim) and stride == 1:
            new.append(dim)
            continue
        new.append(resize(dim, size, start=start or 0, stride=stride))
        slices.append((axis, start, size))
    return Moved((tuple(new),), slices=(tuple(slices),))
