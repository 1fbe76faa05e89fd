"""The trainer behind ``hpfree train``, for use from Python."""

from hpfree_jax._errors import needs_extra

with needs_extra("hpfree_jax.training", "train"):
    from hpfree_jax._errors import UserError as UserError
    from hpfree_jax.methods._registry import METHODS as METHODS
    from hpfree_jax.methods._registry import build_optimizer as build_optimizer
    from hpfree_jax.methods._schedules import SCHEDULES as SCHEDULES
    from hpfree_jax.methods._schedules import make_schedule as make_schedule
    from hpfree_jax.training._config import INITS as INITS
    from hpfree_jax.training._config import Init as Init
    from hpfree_jax.training._config import TrainConfig as TrainConfig
    from hpfree_jax.training._losses import LOSSES as LOSSES
    from hpfree_jax.training._losses import Loss as Loss
    from hpfree_jax.training._losses import cross_entropy_loss as cross_entropy_loss
    from hpfree_jax.training._losses import square_loss as square_loss
    from hpfree_jax.training._model_config import ModelConfig as ModelConfig
    from hpfree_jax.training._model_config import check_kind as check_kind
    from hpfree_jax.training._model_config import trace_model as trace_model
    from hpfree_jax.training._state import TrainState as TrainState
    from hpfree_jax.training._train import DivergedError as DivergedError
    from hpfree_jax.training._train import StoppedError as StoppedError
    from hpfree_jax.training._train import TrainResult as TrainResult
    from hpfree_jax.training._train import resume as resume
    from hpfree_jax.training._train import train as train
