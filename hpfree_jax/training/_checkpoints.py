"""Checkpoints of a training run, with Orbax."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpfree_jax._errors import UserError
from hpfree_jax.training._files import WriteError
from hpfree_jax.training._state import TrainState
from hpfree_jax.training._steps import METRICS


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    pending: np.ndarray  # (steps, metrics), of the steps since the last line
    data_state: dict[str, Any] | None  # the place in a stream of data


class Checkpoints:
    """The folder ``checkpoints`` of a run: the states after its latest steps.

    A state is stored as a flat dictionary from names, such as
    ``params.layers.0.kernel``, to arrays, so that it can be compared with what a model
    expects before anything is read; random keys as the numbers they consist of. Beside
    it lie the metrics of the steps that no line of the metrics file covers yet, and the
    place in a stream of data.

    Args:
      folder: where the checkpoints are; made when the first is saved.
      keep: how many to keep.
    """

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp  # half a second

        self.folder = folder.absolute()
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "pending": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=False,
                create=True,
                cleanup_tmp_directories=True,  # of a save that failed, or was killed
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / str(step)

    def save(
        self,
        step: int,
        state: TrainState,
        pending: np.ndarray,
        data_state: dict[str, Any] | None = None,
    ) -> None:
        """Stores the state after ``step`` updates, and returns when it is on disk.

        Raises:
          WriteError: if that fails; the checkpoints before it stay.
        """
        if step == self.latest():
            return
        args = self._ocp.args
        items = args.Composite(
            state=args.StandardSave(_named(state)),
            pending=args.JsonSave({"metrics": pending.tolist(), "data": data_state}),
        )
        try:
            with _quiet_failure():
                self._manager.save(step, args=items)
        except Exception as error:  # of TensorStore, a full disk is a ValueError
            raise WriteError(
                f"the checkpoint {self.path(step)} cannot be written "
                f"({_one_line(error)})"
            ) from error

    def restore(
        self, step: int, like: TrainState, num_metrics: int = len(METRICS)
    ) -> Restored:
        """Reads a checkpoint.

        Args:
          step: the step it was saved after.
          like: a state of the structure, shapes and dtypes that are expected.
          num_metrics: how many metrics a step has.

        Raises:
          UserError: if the stored arrays are others, naming the first that differs, or
            if the files are damaged, saying where the run can continue without them.
        """
        try:
            with _quiet_failure():
                return self._restore(step, like, num_metrics)
        except UserError:
            raise
        except Exception as error:  # whatever Orbax, TensorStore and JSON stumble over
            older = [other for other in self._manager.all_steps() if other < step]
            action = f"continue from step {max(older)}" if older else "begin at step 0"
            raise UserError(
                f"the checkpoint {self.path(step)} is damaged ({_one_line(error)}); "
                f"move it out of {self.folder} to {action}"
            ) from error

    def _restore(self, step: int, like: TrainState, num_metrics: int) -> Restored:
        args = self._ocp.args
        expected = _named(like)
        found = self._manager.item_metadata(step)["state"]
        _check_fits(expected, getattr(found, "tree", found), self.path(step))
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            expected,
        )
        restored = self._manager.restore(
            step,
            args=args.Composite(
                state=args.StandardRestore(shapes), pending=args.JsonRestore()
            ),
        )
        leaves = [
            _as_key(restored["state"][name], leaf)
            for name, leaf in zip(expected, jax.tree.leaves(like), strict=True)
        ]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        pending = np.array(restored["pending"]["metrics"], np.float32)
        if int(state.step) != step:
            raise ValueError(f"it holds the state after step {int(state.step)}")
        data_state = restored["pending"].get("data")
        return Restored(state, pending.reshape(-1, num_metrics), data_state)


def _one_line(error: Exception) -> str:
    """Kind and beginning of an error; the reason of a full disk comes at its end."""
    text = " ".join(str(error).split())
    if len(text) > 200:
        text = f"{text[:100]} ... {text[-100:]}"
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _quiet_failure() -> Iterator[None]:
    """Hides what Orbax prints of a failure beside the error that it raises.

    It logs tracebacks. Reads and writes that end after another has failed find its
    event loop closed, of which Python prints a traceback each; they may end at any time
    after the failure, so that this hook stays.
    """
    from absl import logging

    verbosity, hook = logging.get_verbosity(), sys.unraisablehook

    def report(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and "loop is closed" in str(error)):
            hook(unraisable)

    sys.unraisablehook = report
    logging.set_verbosity(logging.FATAL)
    try:
        yield
        sys.unraisablehook = hook
    finally:
        logging.set_verbosity(verbosity)


def _named(state: TrainState) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    return {name(path): _as_numbers(leaf) for path, leaf in leaves}


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_numbers(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_key(numbers: jax.Array, like: jax.Array) -> jax.Array:
    if not _is_key(like):
        return numbers
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(like))


def _check_fits(expected, found, path: Path) -> None:
    def describe(arrays, name):
        if name not in arrays:
            return "nothing"
        return f"{np.dtype(arrays[name].dtype).name} of shape {arrays[name].shape}"

    for name in [*expected, *found]:
        want, have = describe(expected, name), describe(found, name)
        if want != have:
            raise UserError(
                f"the checkpoint {path} is of another model or method: for `{name}` it "
                f"holds {have}, and {want} is expected; resume with the configuration "
                "that made it"
            )
