"""The trainer behind ``hpfree train``, for use from Python."""

from hpfree_jax._errors import needs_extra

with needs_extra("hpfree_jax.training", "train"):
    from hpfree_jax._errors import UserError as UserError
    from hpfree_jax.methods import METHODS as METHODS
    from hpfree_jax.methods import SCHEDULES as SCHEDULES
    from hpfree_jax.methods import build_optimizer as build_optimizer
    from hpfree_jax.methods import make_schedule as make_schedule
    from hpfree_jax.training._config import TrainConfig as TrainConfig
    from hpfree_jax.training._losses import LOSSES as LOSSES
    from hpfree_jax.training._losses import cross_entropy_loss as cross_entropy_loss
    from hpfree_jax.training._losses import square_loss as square_loss
    from hpfree_jax.training._progress import Progress as Progress
    from hpfree_jax.training._session import DivergedError as DivergedError
    from hpfree_jax.training._session import TrainResult as TrainResult
    from hpfree_jax.training._state import TrainState as TrainState
    from hpfree_jax.training._train import StoppedError as StoppedError
    from hpfree_jax.training._train import resume as resume
    from hpfree_jax.training._train import train as train
