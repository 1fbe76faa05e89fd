"""A run saved with Orbax continues bit for bit, whatever moves the scalars."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import hpfree_jax as hp

HYPERPARAMS = {"learning_rate": 0.1, "b1": 0.9}


@pytest.mark.parametrize(
    "hyper_optimizer",
    [optax.adam(1e-3), optax.chain(optax.trace(0.9), optax.scale(-1e-3))],
    ids=["adam", "momentum"],
)
@pytest.mark.parametrize("discount", [1.0, None])
def test_an_optimizer_of_the_scalars_resumes_bit_for_bit(
    hyper_optimizer, discount, tmp_path
):
    tx = hp.hypergradient(optax.adam, HYPERPARAMS, hyper_optimizer, discount=discount)
    value_fn = lambda w: jnp.sum(jnp.array([1.0, 3.0]) / 2 * w**2)

    @jax.jit
    def step(w, state):
        updates, state = tx.update(jax.grad(value_fn)(w), state, w, value_fn=value_fn)
        return optax.apply_updates(w, updates), state

    def run(carry, num_steps=3):
        for _ in range(num_steps):
            carry = step(*carry)
        return carry

    w = jnp.array([1.0, -2.0])
    halfway = run((w, tx.init(w)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", halfway)
        checkpointer.wait_until_finished()
        abstract = jax.eval_shape(lambda w: (w, tx.init(w)), w)
        restored = checkpointer.restore(tmp_path / "state", abstract)
    one, other = run(halfway), run(restored)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    # What is compared has moved, the scalars' optimizer too.
    assert (
        one[1].hyperparams["learning_rate"] != halfway[1].hyperparams["learning_rate"]
    )
    moved = zip(
        jax.tree.leaves(one[1].hyper_state),
        jax.tree.leaves(halfway[1].hyper_state),
        strict=True,
    )
    assert all(np.any(a != b) for a, b in moved)
