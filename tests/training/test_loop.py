"""Windows of one seed or several, and the same steps on a mesh of eight devices."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hpfree_jax.data import DATASETS, open_dataset
from hpfree_jax.training._loop import Calls
from hpfree_jax.training.engine import (
    Intervals,
    StepShardings,
    make_functions,
    make_step,
    prepare,
    windows,
)


@pytest.mark.parametrize("per_epoch", [1, 7, 71])
def test_calls_are_powers_of_two_within_windows_and_epochs(per_epoch):
    calls = Calls(Intervals(233, 10, 50), per_epoch, None)
    made, step = [], 0
    while step < 233:
        made.append(calls.size(step))
        step += made[-1]
    assert step == 233
    assert calls.sizes(0) == set(made)
    assert {number.bit_count() for number in made} == {1}
    ends = set(np.cumsum(made).tolist())
    assert ends >= {*range(10, 233, 10), *range(per_epoch, 233, per_epoch), 233}


def test_windows_begin_anew_with_each_epoch():
    """Epochs of 5 steps, windows of 2: the last of each epoch is short."""
    intervals = Intervals(10, 2, 5, save_every=10, restart_every=5)
    steps = range(1, 11)
    assert [n for n in steps if intervals.ends_window(n)] == [2, 4, 5, 7, 9, 10]
    assert [n for n in steps if intervals.evaluates(n)] == [5, 10]
    assert [n for n in steps if intervals.saves(n)] == [10]
    lengths = [intervals.steps_left(n) for n in (0, 1, 2, 4, 5, 9)]
    assert lengths == [2, 1, 2, 1, 2, 1]


@pytest.fixture
def tasks(config, digits):
    pairs = [prepare(config(seed=seed), digits) for seed in (0, 1)]
    return zip(*pairs, strict=True)


def test_a_stopped_window_holds_the_steps_that_no_line_covers(tasks):
    (task, _), (state, _) = tasks
    functions, intervals = make_functions(task), Intervals(10, 4, 8)
    answers = itertools.chain([False] * 5, itertools.repeat(True))
    found = windows([task], [state], intervals, functions, stop=lambda: next(answers))
    first, last = [(w.step, w.is_complete, w.metrics.shape) for w in found]
    assert first == (4, True, (1, 4, 3))
    assert last == (6, False, (1, 2, 3))


def test_a_window_has_an_axis_for_the_seeds(tasks):
    tasks, states = tasks
    apart = [
        next(windows([t], [jax.tree.map(lambda x: x.copy(), s)], Intervals(4, 4, 4),
                     make_functions(t)))
        for t, s in zip(tasks, states, strict=True)
    ]  # fmt: skip
    functions = make_functions(tasks[0], num_seeds=2)
    (both,) = windows(tasks, states, Intervals(4, 4, 4), functions)
    assert both.metrics.shape == (2, 4, 3)
    for seed, own in enumerate(apart):
        np.testing.assert_allclose(both.metrics[seed], own.metrics[0], rtol=1e-5)
        found, expected = both.evaluate(seed)["test"], own.evaluate()["test"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["images", "stream"])
def test_steps_on_a_mesh_are_those_on_one_device(config, monkeypatch, kind):
    """Batches divided among eight devices, parameters on each of them."""
    assert len(jax.devices()) == 8
    entry = DATASETS["digits"]._replace(kind=kind)
    monkeypatch.setitem(DATASETS, "sharded", entry)
    dataset = open_dataset("sharded")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    batch = NamedSharding(mesh, PartitionSpec("data"))
    losses = {}
    for name, shardings in (
        ("one", None),
        ("mesh", StepShardings(replicated, batch, replicated)),
    ):
        settings = config(method="adam", dataset="sharded", width=16)
        task, state = prepare(settings, dataset)
        if shardings is not None:
            state = jax.device_put(state, replicated)
        functions = make_functions(task, shardings=shardings)
        (window,) = windows(
            [task], [state], Intervals(7, 7, 7), functions, shardings=shardings
        )
        leaves = jax.tree.leaves(window.state.params)
        devices = 1 if shardings is None else 8
        assert {len(leaf.devices()) for leaf in leaves} == {devices}
        losses[name] = (window.metrics[0, :, 0], window.evaluate()["test"])
    for found, expected in zip(losses["mesh"], losses["one"], strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_several_seeds_are_not_sharded(tasks):
    (task, _), _ = tasks
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(ValueError, match="`num_seeds` 2; train one seed"):
        make_step(task, num_seeds=2, shardings=StepShardings(*3 * (sharding,)))
