"""HD, RTHO and MARTHE: optax's methods with a learning rate that adapts itself."""

import functools

import optax

import hpfree_jax as hp
from hpfree_jax._plots import draw_metric, varies
from hpfree_jax._settings import Setting
from hpfree_jax.methods._method import Length, Method
from hpfree_jax.methods._optax import FACTORIES, SETTINGS

RULES = ("multiplicative", "additive")

# None: what the factory makes of it, see hp.hd.
_ADAPTATION_HELP = "Learning rate of the hyper-learning-rate; 0: it stays."
_SETTINGS = {
    "hyper_learning_rate": Setting(
        None,
        "Step size of the learning rate's own updates; None: 0.05, multiplicative.",
        float,
    ),
    "rule": Setting(
        None,
        "How the learning rate is updated; None: additive if hyper_learning_rate is "
        "given, else multiplicative.",
        choices=RULES,
    ),
    "adaptation_rate": Setting(0.0, _ADAPTATION_HELP),
}
_METRICS = {
    "hypergradient": lambda state: state.hypergradients["learning_rate"],
    "hyper_learning_rate": lambda state: state.hyper_learning_rate,
}
_TITLES = {
    "hypergradient": "Hypergradient",
    "discount": "Discount",
    "hyper_learning_rate": "Hyper-learning-rate",
}


def _build(length: Length, *, factory, inner, learning_rate, **settings):
    del length  # none of them has a horizon
    own = {name: settings.pop(name) for name in SETTINGS[inner] if name in settings}
    optimizer = functools.partial(FACTORIES[inner], **own)
    return factory(optimizer, learning_rate, **settings)


def _rtho(
    inner, learning_rate, hyper_learning_rate, **settings
) -> optax.GradientTransformation:
    # With the discount of RTHO and the defaults of MARTHE: hp.rtho has none.
    return hp.marthe(inner, learning_rate, hyper_learning_rate, discount=1, **settings)


def _panels(lines, opt_state):
    del opt_state  # all of it is in the metrics
    return {
        title: functools.partial(
            draw_metric, lines=lines, key=key, may_be_logarithmic=key != "discount"
        )
        for key, title in _TITLES.items()
        if varies(lines, key)
    }


def _method(factory, reference: str, **fields) -> Method:
    return Method(
        build=functools.partial(_build, factory=factory),
        init="default",
        reference=reference,
        inners=SETTINGS,
        panels=_panels,
        remedy="--learning-rate or --hyper-learning-rate",
        **{"settings": _SETTINGS, "metrics": _METRICS, **fields},
    )


_VALIDATED = {
    "extra_args": ("value_fn", "validation_fn"),
    "validation_fraction": 0.1,
}
HYPERGRADIENT_METHODS = {
    # Published with the training loss as its objective: nothing is held out.
    "hd": _method(hp.hd, "arXiv 1703.04782", extra_args=("validation_fn",)),
    "rtho": _method(_rtho, "arXiv 1703.01785", **_VALIDATED),
    "marthe": _method(
        hp.marthe,
        "arXiv 1910.08525",
        settings={
            **_SETTINGS,
            "adaptation_rate": Setting(1e-6, _ADAPTATION_HELP),
            "discount": Setting(
                None, "Discount of past tangents, in [0, 1]; None: adaptive.", float
            ),
        },
        metrics={**_METRICS, "discount": lambda state: state.discount},
        **_VALIDATED,
    ),
}
