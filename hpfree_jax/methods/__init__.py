"""The table of training methods, and building an optimizer from a row of it."""

from hpfree_jax._settings import Setting as Setting
from hpfree_jax.methods._method import Length as Length
from hpfree_jax.methods._method import Method as Method
from hpfree_jax.methods._registry import INNERS as INNERS
from hpfree_jax.methods._registry import METHODS as METHODS
from hpfree_jax.methods._registry import build_optimizer as build_optimizer
from hpfree_jax.methods._registry import (
    depends_on_total_steps as depends_on_total_steps,
)
from hpfree_jax.methods._registry import method_settings as method_settings
from hpfree_jax.methods._registry import register_method as register_method
from hpfree_jax.methods._schedules import SCHEDULES as SCHEDULES
from hpfree_jax.methods._schedules import make_schedule as make_schedule
