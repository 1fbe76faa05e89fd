import dataclasses
import json

import jax
import numpy as np
import pytest

from hpfree_jax._errors import UserError
from hpfree_jax.comparison._runner import Runner, Stopped
from hpfree_jax.comparison._specs import TaskSpec, parse_method
from hpfree_jax.training import TrainConfig, train
from hpfree_jax.training.engine import Intervals

SETTINGS = {"depth": 2, "width": 8}
# 1,438 examples in batches of 256 are 5 steps an epoch.
TASK = TaskSpec("toy", "digits", "fcn", SETTINGS, 256, 10, "square")
INTERVALS = Intervals(10, 5, 5)


@pytest.fixture
def runner(digits):
    def make(
        method="adam",
        task=TASK,
        intervals=INTERVALS,
        init=None,
        held_out=None,
        **settings,
    ):
        spec = dataclasses.replace(
            parse_method(method), init=init, validation_fraction=held_out
        )
        return Runner(task, spec, digits, intervals, **settings)

    return make


def run(runner, *seeds):
    return runner.run(seeds, [{"seed": seed} for seed in seeds])


@pytest.fixture(scope="module")
def adam(digits):
    """Two seeds at once, and one after another."""
    runner = Runner(TASK, parse_method("adam"), digits, INTERVALS)
    return run(runner, 3, 4), [*run(runner, 3), *run(runner, 4)]


def test_seeds_at_once_are_the_same_runs_as_one_after_another(adam):
    at_once, apart = adam
    assert [record.seeds_at_once for record in (*at_once, *apart)] == [2, 2, 1, 1]
    for one, other in zip(*adam, strict=True):
        for lines, expected in ((one.train, other.train), (one.test, other.test)):
            assert lines["step"] == expected["step"]
            for key in set(lines) - {"step"}:
                np.testing.assert_allclose(lines[key], expected[key], rtol=1e-5)
    first, second = apart
    assert first.train["loss"] != second.train["loss"]


@pytest.mark.slow
def test_seeds_that_hold_out_different_data_go_at_once_too(runner):
    hd = runner("hd", dataclasses.replace(TASK, batch_size=128), held_out=0.1)
    _, at_once = run(hd, 3, 4)
    (apart,) = run(hd, 4)
    for key in ("loss", "accuracy", "learning_rate"):
        np.testing.assert_allclose(at_once.train[key], apart.train[key], rtol=1e-4)


def test_a_run_is_what_the_trainer_does(adam, tmp_path):
    train(
        TrainConfig(
            method="adam", epochs=2, batch_size=256, seed=3, log_every=5,
            output_dir=tmp_path / "run", **SETTINGS,
        )
    )  # fmt: skip
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    record = adam[1][0]
    for key in ("step", "loss", "accuracy", "learning_rate"):
        assert record.train[key] == [x[key] for x in lines if "loss" in x]
    for key in ("loss", "accuracy"):
        expected = [x[f"test_{key}"] for x in lines if "test_loss" in x]
        assert record.test[key] == expected


def test_what_is_held_out_is_measured_as_the_trainer_does(runner, tmp_path):
    (record,) = run(runner("adam", held_out=0.1), 3)
    train(
        TrainConfig(
            method="adam", epochs=2, batch_size=256, seed=3, log_every=5,
            validation_fraction=0.1, output_dir=tmp_path / "run", **SETTINGS,
        )
    )  # fmt: skip
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for key in ("accuracy", "loss"):
        expected = [x[f"validation_{key}"] for x in lines if "test_loss" in x]
        assert record.validation[key] == expected
    assert record.final_validation_loss == expected[-1]


def test_all_methods_of_one_initialisation_start_from_the_same_weights(runner):
    def params(method, seed=0, init=None):
        return jax.tree.leaves(runner(method, init=init).prepare(seed)[1].params)

    same = lambda one, other: all(map(np.array_equal, one, other))
    assert same(params("adam"), params("prodigy"))
    assert not same(params("adam"), params("adam", seed=1))
    assert not same(params("adam"), params("agd"))
    assert same(params("adam", init="agd"), params("agd"))


def test_all_methods_see_the_same_order_of_the_data(runner):
    keys = [runner(method).prepare(0)[0].order_key for method in ("adam", "agd")]
    np.testing.assert_array_equal(*map(jax.random.key_data, keys))


def test_the_horizon_of_a_schedule_is_the_number_of_steps(runner):
    (record,) = run(runner("adam:schedule=cosine", intervals=Intervals(10, 1, 10)), 0)
    # From 1e-3 at the first of ten steps towards 0 at an eleventh.
    expected = 1e-3 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2
    np.testing.assert_allclose(record.train["learning_rate"], expected, rtol=1e-5)


def test_a_method_without_a_rate_has_blanks(runner):
    (record,) = run(runner("cocob"), 0)
    assert record.train["learning_rate"] == [None, None]
    assert record.status == "finished"


def test_a_run_that_diverges_ends_and_is_a_result(runner):
    (record,) = run(runner("sgd:learning_rate=1e30", intervals=Intervals(10, 1, 10)), 0)
    assert (record.status, record.diverged_at) == ("diverged", 2)
    assert record.train["step"] == [1]
    assert np.isfinite(record.train["loss"]).all()


def test_one_seed_that_diverges_leaves_the_others_alone(runner, monkeypatch):
    both = runner("adam")
    prepare = both.prepare

    def spoiled(seed):
        task, state = prepare(seed)
        if seed == 4:
            state = state._replace(params=jax.tree.map(lambda x: x / 0, state.params))
        return task, state

    monkeypatch.setattr(both, "prepare", spoiled)
    good, bad = run(both, 3, 4)
    assert (good.status, bad.status, bad.diverged_at) == ("finished", "diverged", 1)
    (alone,) = run(runner("adam"), 3)
    np.testing.assert_allclose(good.train["loss"], alone.train["loss"], rtol=1e-5)


def test_several_steps_in_a_call_are_the_same_steps(runner, adam, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (record,) = run(runner("adam"), 3)
    expected = adam[1][0].train["loss"]
    np.testing.assert_allclose(record.train["loss"], expected, rtol=1e-5)


def test_convolutions_and_wide_layers_on_a_cpu_go_seed_by_seed(runner, monkeypatch):
    convolutional = TaskSpec("toy", "digits", "lenet5", {}, 256, 10, "square")
    wide = dataclasses.replace(TASK, model_settings={"depth": 3, "width": 257})
    assert runner().gains_from_vmap()
    assert not runner(task=wide).gains_from_vmap()
    assert not runner(task=convolutional).gains_from_vmap()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert runner(task=convolutional).gains_from_vmap()
    assert not runner("autowu").gains_from_vmap()


def test_a_wish_to_stop_is_seen_between_two_steps(runner):
    with pytest.raises(Stopped):
        run(runner(stop=lambda: True), 0)


def test_what_does_not_fit_is_said_before_anything_is_computed(runner):
    task = TaskSpec("toy", "digits", "fcn", SETTINGS, 5000, 10, "square")
    with pytest.raises(UserError, match="`batch_size` 5000 is larger than the 1438"):
        runner(task=task).check()
