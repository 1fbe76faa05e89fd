"""Rules of the tracer: one for each primitive, and new ones from outside."""

import ast
import collections
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

import hpfree_jax as hp
from hpfree_jax.architecture._tracer import _registry
from tests.architecture.drawing import draw, layers, leaders, shape

TRACER = Path(_registry.__file__).parent


def swap_halves(x):
    half = x.shape[-1] // 2
    return jnp.concatenate([x[..., half:], x[..., :half]], -1)


@pytest.fixture
def primitive():
    """A primitive of a user's own with two operands, which JAX knows how to shape."""
    mine = core.Primitive("scale_and_swap")
    mine.def_abstract_eval(lambda x, scale: x)
    yield mine
    _registry.RULES.pop(mine.name, None)


def test_a_primitive_without_a_rule_names_itself_and_the_line(primitive):
    net = lambda p, x: primitive.bind(x @ p["a"], p["scale"])
    with pytest.raises(
        NotImplementedError, match=r"`scale_and_swap` at .*test_registry\.py:\d+"
    ):
        hp.trace_architecture(net, {"a": shape(4, 4), "scale": shape(4)}, shape(2, 4))


def test_a_rule_registered_from_outside(primitive):
    @_registry.rule("scale_and_swap")
    def scale_and_swap(tracer, eqn, values):
        traced = jax.make_jaxpr(lambda x, scale: swap_halves(x * scale))(
            *(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars)
        )
        return tracer.run(traced, values)

    net = lambda p, x: primitive.bind(x @ p["a"], p["scale"]) @ p["b"]
    params = {"a": shape(4, 4), "scale": shape(4), "b": shape(4, 2)}
    arch = hp.trace_architecture(net, params, shape(2, 4))
    assert draw(arch) == "b(a(x))"
    assert layers(arch, "fan_in") == {"a": 4, "b": 4}
    assert leaders(arch) == {"scale": "a"}


def test_a_second_rule_for_a_primitive_is_refused():
    before = dict(_registry.RULES)
    with pytest.raises(ValueError, match="`dot_general` already has a rule"):
        _registry.rule("dot_general")(lambda tracer, eqn, values: values)
    assert before == _registry.RULES


def test_each_primitive_is_named_in_one_place():
    """In decorators and registering calls, by the syntax of the source."""
    found = collections.Counter()
    for path in TRACER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(getattr(node, "func", None), "id", None)
            if called in ("rule", "_moves", "_runs"):
                assert isinstance(node, ast.Call)
                constants = (a for a in node.args if isinstance(a, ast.Constant))
                found.update(argument.value for argument in constants)
    assert found.keys() == _registry.RULES.keys()
    assert set(found.values()) == {1}
