"""The trainer's engine, for other programs that train: ``hpfree compare`` is one.

:func:`prepare` turns a configuration into a task and its first state,
:func:`make_functions` compiles its step, and :func:`windows` trains one seed or several
and yields what happened.
"""

from hpfree_jax.training._config import INITS as INITS
from hpfree_jax.training._config import Init as Init
from hpfree_jax.training._files import LOCK as LOCK
from hpfree_jax.training._files import WriteError as WriteError
from hpfree_jax.training._files import default_directory as default_directory
from hpfree_jax.training._files import free_name as free_name
from hpfree_jax.training._files import lock as lock
from hpfree_jax.training._files import machine as machine
from hpfree_jax.training._files import now as now
from hpfree_jax.training._files import write_whole as write_whole
from hpfree_jax.training._interrupt import Interrupt as Interrupt
from hpfree_jax.training._loop import Intervals as Intervals
from hpfree_jax.training._loop import Window as Window
from hpfree_jax.training._loop import make_functions as make_functions
from hpfree_jax.training._loop import windows as windows
from hpfree_jax.training._losses import LossName as LossName
from hpfree_jax.training._memory import enough_memory as enough_memory
from hpfree_jax.training._model_config import ModelConfig as ModelConfig
from hpfree_jax.training._model_config import check_kind as check_kind
from hpfree_jax.training._model_config import trace_model as trace_model
from hpfree_jax.training._state import Task as Task
from hpfree_jax.training._state import prepare as prepare
from hpfree_jax.training._steps import ResidentData as ResidentData
from hpfree_jax.training._steps import StepShardings as StepShardings
from hpfree_jax.training._steps import make_step as make_step
from hpfree_jax.training._train import resume_command as resume_command
