"""Data parallelism: eight devices, and two processes, decide the same."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import hpfree_jax as hp

ROOT = Path(__file__).parents[2]
NUM_STEPS = 40


def train(mesh):
    """Returns the state after a warm-up that a test ends, on one device or a mesh."""
    tx = hp.scale_by_autowu(
        NUM_STEPS,
        2,
        min_learning_rate=1e-2,
        max_learning_rate=100.0,
        max_warmup_fraction=0.9,
        patience=2,
        fit_steps=20,
        predict_points=100,
    )
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    params = {"w": jnp.ones(3)}
    if mesh is not None:
        sharding = NamedSharding(mesh, P("data"))
        x = jax.make_array_from_callback(x.shape, sharding, lambda index, x=x: x[index])
        params = jax.device_put(params, NamedSharding(mesh, P()))

    @jax.jit
    def step(params, state, x):
        loss = lambda params: jnp.mean((x @ (params["w"] - 0.5)) ** 2)
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return jax.tree.map(jnp.add, params, updates), state

    state = tx.init(params)
    for _ in range(NUM_STEPS):
        # One at a time: eight threads for each step in flight can starve one another.
        params, state = jax.block_until_ready(step(params, state, x))
    return state


@functools.cache
def train_alone():
    return train(None)


@pytest.mark.parametrize(
    "axis_type",
    [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)],
)
def test_eight_devices_decide_as_one_does(axis_type):
    alone = train_alone()
    assert 0 < alone.switch_step < 36  # by a test
    state = train(jax.make_mesh((8,), ("data",), axis_types=(axis_type,)))
    assert state.switch_step == alone.switch_step
    np.testing.assert_allclose(
        state.best_learning_rate, alone.best_learning_rate, rtol=1e-3
    )
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


PROGRAM = """
import json, sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.sharding import AxisType
from tests.warmup.test_devices import train
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
state = train(mesh)
first = lambda leaf: leaf.addressable_shards[0].data.tolist()
print(json.dumps([jax.process_count(), *map(first, jax.tree.leaves(state))]))
"""


@pytest.mark.slow
def test_two_processes_decide_the_same():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    states = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert states[0] == states[1]
    assert states[0][0] == 2
    switch_step = states[0][1 + 4]
    assert 0 < switch_step < 36
