"""Images that are read while the model trains: the digits, opened as a stream."""

import numpy as np
import pytest

from hpfree_jax.data import DATASETS, Augmentation, Examples, open_stream
from hpfree_jax.training import resume, train
from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._evaluation import make_evaluate, make_sums
from hpfree_jax.training._state import prepare
from tests.training.conftest import evaluate_on, read_metrics, same

AUGMENTATION = Augmentation(padding=1, flip=True)


@pytest.fixture(autouse=True)
def streamed(monkeypatch):
    entry = DATASETS["digits"]._replace(augmentation=AUGMENTATION)
    monkeypatch.setitem(DATASETS, "shifted", entry)
    monkeypatch.setitem(DATASETS, "streamed", entry._replace(is_streamed=True))


def test_a_stopped_run_continues_with_the_next_example(config, interrupt_at):
    settings = {"dataset": "streamed", "augment": True}
    whole = train(config("whole", **settings))
    with interrupt_at(7):  # in the second epoch
        part = train(config("part", **settings))
    assert (part.step, part.interrupted) == (7, True)
    with Checkpoints(part.directory / "checkpoints") as checkpoints:
        like = prepare(config(**settings), part.task.dataset)[1]
        data_state = checkpoints.restore(7, like).data_state
    assert data_state["next_batch"] == 7
    rest = resume(part.directory)
    assert same(rest, whole)
    assert read_metrics(rest.directory) == read_metrics(whole.directory)
    text = (whole.directory / "metrics.jsonl").read_text()
    assert text.count('"stall_seconds"') == text.count('"loss"') == 6


def test_an_evaluation_sees_every_example_once(config, digits):
    task, state = prepare(config(dataset="streamed"), open_stream("streamed"))
    images, labels = digits.test_images, digits.test_labels
    for limit, count in ((None, 359), (101, 200)):  # in whole batches of 100
        expected = evaluate_on(task, Examples(images[:count], labels[:count]))
        read = lambda limit=limit: task.dataset.evaluation_batches(100, limit)
        found = make_evaluate(task, make_sums(task), read, is_resident=False)
        np.testing.assert_allclose(found(state), expected(state), rtol=1e-5)


def test_nothing_is_held_out_of_a_stream(config):
    with pytest.raises(ValueError, match=r"dataset streamed is read while .* take 0"):
        train(config(dataset="streamed", method="marthe"))
    assert not config().output_dir.exists()


def test_augmentation_is_a_function_of_seed_and_step(config):
    runs = [
        train(config(str(i), dataset="shifted", epochs=1, augment=augment))
        for i, augment in enumerate((True, True, False))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
