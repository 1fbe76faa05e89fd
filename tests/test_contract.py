"""Each rule of contract.py fails on a transformation that breaks it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from hpfree_jax._base import accumulator_dtype, is_inexact, scalar_like
from tests.contract import RULES
from tests.methods import Method


class SGDState(NamedTuple):
    learning_rate: Any
    memory: Any = ()


def descend(state, grads, params):
    """A correct direction for the bugs to spoil: skips steps that are not finite."""
    leaves = [g for g in jax.tree.leaves(grads) if is_inexact(g)]
    finite = sum((jnp.sum(~jnp.isfinite(g)) for g in leaves), start=0) == 0

    def leaf_update(g, p):
        if not is_inexact(g):
            return jnp.zeros_like(p)
        limit = float(jnp.finfo(p.dtype).max) / 2  # the rate is 2
        wide = jnp.clip(g.astype(state.learning_rate.dtype), -limit, limit)
        return jnp.where(finite, -state.learning_rate * wide, 0).astype(p.dtype)

    return jax.tree.map(leaf_update, grads, params)


def method(
    memory=lambda params: (),
    update=descend,
    next_state=lambda state: state,
    factory=None,
    extra_args=lambda loss, params: {},
):
    def make(learning_rate=2.0, layout=None):
        def init(params):
            rate = scalar_like(params, learning_rate, accumulator_dtype())
            return SGDState(rate, memory(params))

        def update_fn(grads, state, params=None, **extra_args):
            return update(state, grads, params), next_state(state)

        return optax.GradientTransformationExtraArgs(init, update_fn)

    return Method("broken", factory or make, {"learning_rate": 2.0}, extra_args)


def with_a_callback(state, grads, params):
    jax.debug.callback(lambda rate: None, state.learning_rate)
    return descend(state, grads, params)


def with_a_branch(state, grads, params):
    return grads if state.learning_rate > 1 else params


def that_forgets(**kwargs):
    calls = []

    def update(state, grads, params):
        calls.append(1)  # memory outside of the state
        return jax.tree.map(lambda g: -g / len(calls), grads)

    return method(update=update)


def without_extra_args(learning_rate):
    init = lambda params: SGDState(jnp.asarray(learning_rate))
    return optax.GradientTransformationExtraArgs(
        init, lambda grads, state, params=None: (grads, state)
    )


def needing_value_but_plain(learning_rate):
    def update(grads, state, params=None, *, value):
        return grads, state

    return optax.GradientTransformation(
        lambda params: SGDState(jnp.asarray(learning_rate)), update
    )


def sensitive_to_arrays(learning_rate=2.0, layout=None):
    factor = 1.0 if isinstance(learning_rate, float) else 0.5
    return method().factory(factor * learning_rate)


def counting_masked(state, grads, params):
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    count = len(jax.tree.leaves(grads, is_leaf=is_masked))
    return jax.tree.map(lambda g: -g / count, grads)


def with_a_dict_state(learning_rate):
    return optax.GradientTransformationExtraArgs(
        lambda params: {"learning_rate": jnp.asarray(learning_rate)},
        lambda grads, state, params=None, **extra_args: (grads, state),
    )


def scaled_by_the_number_of_devices(params):
    return max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(params))


def normalised(state, grads, params):
    norm = optax.tree.norm(grads)
    return jax.tree.map(lambda g: -g / norm, grads)


class NamelessState(NamedTuple):
    rate: Any


BROKEN = {
    "nothing_recompiles": method(
        memory=lambda params: 0,
        next_state=lambda state: state._replace(memory=jnp.zeros((), jnp.int16)),
    ),
    "no_host_callback": method(update=with_a_callback),
    "scan_equals_loop": method(
        memory=lambda params: jnp.zeros(()),
        next_state=lambda state: state._replace(memory=jnp.zeros(2)),
    ),
    "vmap_equals_loop": method(update=with_a_branch),
    "init_is_abstract": method(
        memory=lambda params: float(jax.tree.leaves(params)[0][0])
    ),
    "fresh_params_and_state_can_be_donated": method(memory=lambda params: params),
    "unknown_extra_args_are_accepted": method(factory=without_extra_args),
    "dtypes_are_kept": method(
        update=lambda state, grads, params: optax.tree.cast(grads, jnp.float32)
    ),
    "updates_have_the_dtype_of_params_and_not_of_gradients": method(
        update=lambda state, grads, params: grads
    ),
    "sharding_is_kept_on_an_explicit_mesh": method(
        memory=lambda params: jnp.zeros(()),
        next_state=lambda state: state._replace(memory=state.memory + 1),
        update=lambda state, grads, params: optax.tree.scale(
            -optax.tree.vdot(grads, grads), grads
        ),
    ),
    "an_automatic_mesh_changes_nothing": method(memory=scaled_by_the_number_of_devices),
    "inject_hyperparams_changes_nothing": method(factory=sensitive_to_arrays),
    "map_params_maps_params": method(
        memory=lambda params: [jnp.zeros_like(leaf) for leaf in jax.tree.leaves(params)]
    ),
    "chains_pass_everything_through": method(
        factory=needing_value_but_plain, extra_args=lambda loss, params: {"value": 1.0}
    ),
    "freezing_equals_deleting": method(update=counting_masked),
    "none_and_integer_leaves_are_left_alone": method(
        update=lambda state, grads, params: optax.tree.scale(-0.1, grads)
    ),
    "multi_steps_uses_the_mean_gradient": method(
        factory=needing_value_but_plain, extra_args=lambda loss, params: {"value": 1.0}
    ),
    "an_empty_tree_is_a_tree": method(
        memory=lambda params: jax.tree.leaves(params)[0].shape
    ),
    "scalars_are_at_least_float32": method(
        memory=lambda params: jnp.zeros((), jax.tree.leaves(params)[0].dtype)
    ),
    "it_converges_in_low_precision_too": method(
        update=lambda state, grads, params: optax.tree.scale(-1e-3, grads)
    ),
    "zero_gradients_at_the_start_do_no_harm": method(update=normalised),
    "a_non_finite_step_does_not_corrupt": method(
        update=lambda state, grads, params: optax.tree.scale(-0.1, grads)
    ),
    "finite_gradients_at_the_ends_of_the_range_give_finite_updates": method(
        update=normalised
    ),
    "every_container_gives_the_same_numbers": method(
        update=lambda state, grads, params: dict(grads.items())
    ),
    "the_state_is_a_named_tuple_of_arrays": method(factory=with_a_dict_state),
    "the_learning_rate_is_seen_through_every_wrapper": method(
        factory=lambda learning_rate: optax.GradientTransformationExtraArgs(
            lambda params: NamelessState(jnp.ones(())),
            lambda grads, state, params=None, **extra_args: (grads, state),
        )
    ),
    "the_learning_rate_is_seen_in_an_nnx_optimizer": method(
        factory=lambda learning_rate: optax.GradientTransformationExtraArgs(
            lambda params: NamelessState(jnp.ones(())),
            lambda grads, state, params=None, **extra_args: (grads, state),
        )
    ),
    "a_checkpoint_continues_bit_for_bit": that_forgets(),
    "flax_serialization_continues_bit_for_bit": that_forgets(),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_can_fail(rule):
    with pytest.raises(Exception):  # noqa: B017, PT011 (how it fails is up to the bug)
        rule(BROKEN[rule.__name__])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_fails_for_the_bug_and_not_for_the_fixture(rule):
    rule(method())
