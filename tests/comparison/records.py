"""Records of runs that were never made, for tests of what is computed from them."""

from hpfree_jax.comparison import MethodSpec, Plan, TaskSpec
from hpfree_jax.comparison._records import RunRecord

TASK = TaskSpec("toy", "digits", "fcn", {}, 64, 30, "cross_entropy")


def record(
    losses, *, every=10, accuracy=0.5, diverged_at=None, seconds=0.1, seed=0,
    validation=None,
):  # fmt: skip
    """A run with a line of both kinds every so many steps."""
    steps = [every * (index + 1) for index in range(len(losses))]
    train = {
        "step": steps,
        "loss": losses,
        "accuracy": [accuracy] * len(steps),
        "learning_rate": [None] * len(steps),
    }
    test = {"step": steps, "loss": losses, "accuracy": [accuracy] * len(steps)}
    run = {"settings": {}, "init": "default", "held_out": 0.0, "seed": seed}
    lines = {"step": steps[-1:], "loss": [validation], "accuracy": [accuracy]}
    lines = lines if validation else {}
    return RunRecord(run, diverged_at, train, test, seconds, 1, 100, {}, lines)


def method(label, name="adam", grid=()):
    return MethodSpec(label, name, {"learning_rate": 1e-3}, grid=grid)


def plan(*methods, tasks=(TASK,), num_seeds=1):
    return Plan(tasks, methods, num_seeds)
