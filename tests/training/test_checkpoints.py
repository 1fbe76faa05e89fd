import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.training._checkpoints import Checkpoints
from hpfree_jax.training._state import prepare

PENDING = np.array([[0.1, 0.2, 0.3]], np.float32)


@pytest.fixture
def begin(config, digits):
    return lambda **changes: prepare(config(**changes), digits)[1]


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        yield checkpoints


@pytest.mark.parametrize("method", ["agd", "nadamw"])
def test_a_state_comes_back_bit_for_bit(begin, checkpoints, method):
    state = jax.tree.map(lambda x: x + jnp.asarray(1, x.dtype), begin(method=method))
    state = state._replace(step=jnp.int32(3))
    checkpoints.save(3, state, PENDING)
    restored, pending, _ = checkpoints.restore(3, begin(method=method, seed=1))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(pending, PENDING)


def test_the_two_newest_are_kept(begin, checkpoints):
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        state = begin()._replace(step=jnp.int32(step))
        checkpoints.save(step, state, PENDING[:0])
    checkpoints.save(3, begin(), PENDING)  # there already: not written again
    assert checkpoints.latest() == 3
    names = [path.name for path in checkpoints.folder.iterdir()]
    assert sorted(names) == ["2", "3"]
    assert len(checkpoints.restore(3, begin()).pending) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 9}, r"`params.layers.0.kernel.*float32 of shape \(64, 8\), and"),
        ({"depth": 3}, r"`params.layers.1.kernel.*\(8, 8\) is expected"),
        ({"depth": 1}, "`params.layers.0.kernel"),
        ({"bias": True}, "`params.layers.0.bias.* holds nothing, and float32"),
        ({"method": "sgd"}, "`opt_state.*nothing"),
    ],
)
def test_a_state_of_another_model_or_method_is_named(
    begin, checkpoints, changes, message
):
    checkpoints.save(3, begin(), PENDING)
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.restore(3, begin(**changes))
    assert "another model or method" in str(error.value)
