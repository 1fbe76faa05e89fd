"""A batch in parts: the same step, to rounding, as the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpfree_jax.data import Examples
from hpfree_jax.training._accumulation import accumulated_grad, accumulated_loss
from hpfree_jax.training._state import prepare
from hpfree_jax.training._steps import (
    ResidentData,
    make_epoch_order,
    make_step,
    make_validation_order,
)


def after_two_steps(config, digits, **changes):
    task, state = prepare(config(**changes), digits)
    examples = jax.device_put(task.dataset.train_arrays)
    held_out = None
    if "validation_fn" in task.extra_args:
        others = Examples(*map(jnp.asarray, task.held_out))
        held_out = others, make_validation_order(task)(0)
    step, order = make_step(task), make_epoch_order(task)(0)
    data = ResidentData(examples, order, held_out)
    metrics = []
    for _ in range(2):
        state, found = step(state, data, 1)
        metrics.append(np.asarray(found))
    return state.params, np.concatenate(metrics)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"method": "marthe", "validation_fraction": 0.2}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_step_is_that_of_the_whole_batch(config, digits, changes):
    """Of MARTHE also value_fn and validation_fn, which its metrics come from."""
    whole, parts = (
        after_two_steps(config, digits, accumulate=parts, **changes) for parts in (1, 4)
    )
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-4, atol=1e-7)
    for a, b in zip(*(jax.tree.leaves(x[0]) for x in (whole, parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def loss_fn(params, seen, batch):
    """A loss that depends on how many parts came before."""
    error = batch[0] @ params["w"].astype(jnp.float32) - batch[1]
    loss = jnp.mean(error**2) * (1 + seen)
    return loss, (jnp.mean(error > 0), seen + 1)


def test_parts_are_added_in_float32_one_after_another():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [1.0, 1.0]]), np.zeros(4)
    params = {"w": jnp.array([1.0, 2.0], jnp.bfloat16)}
    batch = (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    (value, (accuracy, seen)), grads = jax.jit(accumulated_grad(loss_fn, 2))(
        params, jnp.float32(0), batch
    )
    # Errors 1, 4 | 5, 3; the second half counts twice.
    assert float(value) == pytest.approx((17 / 2 + 2 * 34 / 2) / 2)
    assert (float(accuracy), float(seen)) == (1, 2)
    first = x[:2].T @ np.array([1, 4])  # times 2 / 2
    second = 2 * x[2:].T @ np.array([5, 3])
    assert grads["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        grads["w"], jnp.asarray((first + second) / 2, jnp.bfloat16)
    )
    loss = lambda params: accumulated_loss(loss_fn, 2)(params, jnp.float32(0), batch)
    assert float(loss(params)) == pytest.approx(float(value))
    wide = {"w": params["w"].astype(jnp.float32)}
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(wide)["w"], (first + second) / 2)
    hessian = (x[:2].T @ x[:2] + 2 * x[2:].T @ x[2:]) / 2
    found = jax.jit(jax.hessian(loss))(wide)["w"]["w"]
    np.testing.assert_allclose(found, hessian, rtol=1e-6)


def test_unequal_parts_are_refused(config):
    with pytest.raises(ValueError, match=r"`batch_size` 256 cannot be .* `accumulate`"):
        config(accumulate=3).check()
