"""The result of one run, and the file that it is kept in."""

import dataclasses
import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpfree_jax._errors import UserError
from hpfree_jax.training.engine import WriteError, free_name, write_whole

LOGGER = logging.getLogger("hpfree_jax")

TRAIN = ("step", "loss", "accuracy", "learning_rate")
TEST = ("step", "loss", "accuracy")
SMOOTHED = 5  # lines, a tenth of a run by default


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What one method did on one task from one seed.

    The training metrics are means over the steps since the line before; the rate of a
    method without one is None. Lines end where a run diverged.
    """

    run: Mapping[str, Any]  # what the run was: settings, seed, steps
    diverged_at: int | None  # first step with a loss that is not finite
    train: Mapping[str, Sequence[Any]]  # TRAIN, by name
    test: Mapping[str, Sequence[Any]]  # TEST, by name
    seconds_per_step: float  # of this run: divided by the number of seeds at once
    seeds_at_once: int
    num_params: int
    machine: Mapping[str, Any]  # versions, device, when
    # TEST, by name, on what is held out of the training data; no lines without that.
    validation: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    @property
    def status(self) -> str:
        """``finished`` or ``diverged``."""
        return "finished" if self.diverged_at is None else "diverged"

    @property
    def smooth_loss(self) -> list[float]:
        """The training loss at each line: the mean of up to five lines, to this one."""
        losses = self.train["loss"]
        ends = range(1, len(losses) + 1)
        return [statistics.fmean(losses[max(0, n - SMOOTHED) : n]) for n in ends]

    @property
    def final_loss(self) -> float:
        """The training loss, smoothed, at the end; infinite if the run diverged."""
        return self._last(self.smooth_loss)

    @property
    def final_test_loss(self) -> float:
        """The last loss on the test data; infinite if the run diverged."""
        return self._last(self.test["loss"])

    @property
    def final_test_accuracy(self) -> float:
        """The last accuracy on the test data; NaN if the run diverged."""
        return math.nan if self.diverged_at is not None else self.test["accuracy"][-1]

    @property
    def final_validation_loss(self) -> float:
        """The last loss on what is held out; infinite if the run diverged, or NaN.

        NaN stands for a run that nothing is held out of.
        """
        return self._last(self.validation.get("loss") or [math.nan])

    @property
    def final_test_perplexity(self) -> float:
        """The exponential of the last test loss; infinite beyond the numbers."""
        try:
            return math.exp(self.final_test_loss)
        except OverflowError:
            return math.inf

    def _last(self, values) -> float:
        return math.inf if self.diverged_at is not None else values[-1]

    def steps_to(self, target: float) -> float:
        """The first step whose smoothed loss is at most the target; or infinity."""
        pairs = zip(self.train["step"], self.smooth_loss, strict=True)
        return next((step for step, loss in pairs if loss <= target), math.inf)


class RecordFile:
    """The file of one run: it is there, whole, once the run is finished."""

    def __init__(self, path: Path, run: Mapping[str, Any]):
        self.path = path
        self._run = json.loads(json.dumps(run))

    def read(self) -> RunRecord | None:
        """Returns what is there; None if there is nothing, or nothing whole.

        A damaged file is renamed, so that the run can be made again.
        """
        try:
            record = RunRecord(**json.loads(self.path.read_text()))
            self._check(record)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            aside = free_name(self.path.with_suffix(".damaged"))
            self.path.rename(aside)
            LOGGER.warning(
                f"{self.path} is damaged ({type(error).__name__}: {error}); renamed "
                f"to {aside.name}, and the run is made again"
            )
            return None
        return record

    def write(self, record: RunRecord) -> None:
        """Writes the file whole or not at all.

        Raises:
          UserError: if it cannot be written, on a full disk, say.
        """
        content = json.dumps(dataclasses.asdict(record), allow_nan=False)
        write_result(self.path, content)

    def _check(self, record: RunRecord) -> None:
        if record.run != self._run:
            raise ValueError("it is of another run")
        for name, lines, keys in (
            ("train", record.train, TRAIN),
            ("test", record.test, TEST),
            ("validation", record.validation, TEST if record.validation else ()),
        ):
            if len({len(lines[key]) for key in keys}) > 1:
                raise ValueError(f"the columns of `{name}` differ in length")
        if record.diverged_at is None and record.test["step"][-1:] != [
            self._run["task"]["steps"]
        ]:
            raise ValueError("it ends before the last step")


def write_result(path: Path, content: str | bytes) -> None:
    """Writes a file of a comparison whole or not at all.

    Raises:
      UserError: if it cannot be written.
    """
    try:
        write_whole(path, content)
    except WriteError as error:
        raise UserError(
            f"{error}; all runs finished before are kept: make room, and give the "
            "same command again"
        ) from error
