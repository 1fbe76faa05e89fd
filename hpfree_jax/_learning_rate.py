"""Reads the learning rate in force out of the state of any optimizer."""

from typing import Any

import jax.numpy as jnp
import optax
from jax.tree_util import keystr
from jaxtyping import Array, Float, PyTree

Path = tuple[Any, ...]  # of a leaf in a state


def get_learning_rate(opt_state: PyTree) -> Float[Array, "..."]:
    """Returns the learning rate that the last update used.

    Found through any nesting of ``optax.chain``, ``named_chain``, ``masked``,
    ``partition``, ``MultiSteps``, ``apply_if_finite``, ``inject_hyperparams`` and
    ``flax.nnx.Optimizer``: the ``learning_rate`` of a method's state, else the
    ``learning_rate`` among the ``hyperparams`` of a state. A method knows better than
    the hyperparameter injected into it, so the innermost one counts. A schedule, which
    is a state that also has a ``next_learning_rate`` such as that of
    ``hp.scale_by_autowu``, gives the rate of its chain, whatever the direction has.

    Args:
      opt_state: the state of an optax transformation.

    Returns:
      The rate, a scalar; with a batch axis if the state has one (``jax.vmap``).

    Raises:
      ValueError: if the state holds no rate (a rate that is a number or a schedule in
        a closure is in no state: wrap the factory in ``optax.inject_hyperparams``),
        or several that differ in place, as after ``optax.partition``: pass the part
        of the state that is meant.

    >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    >>> print(get_learning_rate(optax.chain(tx).init({"w": jnp.ones(2)})))
    0.5
    """
    rates = {
        path: rate
        for path, rate in optax.tree.get_all_with_path(opt_state, "learning_rate")
        if _owner(path) is not None and not _is_derived(path)
    }
    schedules = {
        path[:-1]
        for path, _ in optax.tree.get_all_with_path(opt_state, "next_learning_rate")
    }
    innermost = _innermost(list(rates), schedules)
    if not innermost:
        raise ValueError(
            f"The state ({type(opt_state).__name__}) holds no learning rate. A rate "
            "given as a number or a schedule is in no state: wrap the factory, as in "
            "optax.inject_hyperparams(optax.adam)(learning_rate=schedule)."
        )
    if len(innermost) > 1:
        names = ", ".join(f"state{keystr(path)}" for path in innermost)
        raise ValueError(
            f"The state holds {len(innermost)} learning rates: {names}. Pass the part "
            "of the state that is meant."
        )
    return jnp.asarray(rates[innermost[0]])


def _innermost(paths: list[Path], schedules: set[Path]) -> list[Path]:
    """The paths of rates without another rate inside, or beside a schedule's."""
    innermost = [
        path
        for path in paths
        if not any(_is_inside(other, _owner(path)) for other in paths if other != path)
    ]
    # A schedule multiplies what comes before it in its chain.
    for path in [p for p in innermost if p[:-1] in schedules]:
        innermost = [p for p in innermost if p == path or not _is_inside(p, path[:-2])]
    return innermost


def _owner(path: Path) -> Path | None:
    """The path of the state that a ``learning_rate`` belongs to; None for a param."""
    if getattr(path[-1], "name", None) == "learning_rate":  # a field
        return path[:-1]
    if len(path) > 1 and getattr(path[-2], "name", None) == "hyperparams":
        return path[:-2]
    return None


def _is_derived(path: Path) -> bool:
    """Whether the path leads through a derivative, or the optimizer of the scalars."""
    names = {getattr(key, "name", None) for key in path}
    return not names.isdisjoint(("tangents", "direct_tangents", "hyper_state"))


def _is_inside(path: Path, owner: Path | None) -> bool:
    return owner is not None and path[: len(owner)] == owner
