"""Comparisons of training methods behind ``hpfree compare``, for use from Python."""

from hpfree_jax._errors import needs_extra

with needs_extra("hpfree_jax.comparison", "train"):
    from hpfree_jax.comparison._compare import Comparison as Comparison
    from hpfree_jax.comparison._compare import compare as compare
    from hpfree_jax.comparison._config import CompareConfig as CompareConfig
    from hpfree_jax.comparison._plan import Plan as Plan
    from hpfree_jax.comparison._profile import performance_ratios as performance_ratios
    from hpfree_jax.comparison._profile import profile_score as profile_score
    from hpfree_jax.comparison._profile import share_within as share_within
    from hpfree_jax.comparison._records import RunRecord as RunRecord
    from hpfree_jax.comparison._results import TIMED_AGAINST as TIMED_AGAINST
    from hpfree_jax.comparison._results import Result as Result
    from hpfree_jax.comparison._results import Results as Results
    from hpfree_jax.comparison._results import Summary as Summary
    from hpfree_jax.comparison._results import tuned_adam_target as tuned_adam_target
    from hpfree_jax.comparison._specs import METHOD_NAMES as METHOD_NAMES
    from hpfree_jax.comparison._specs import MethodSpec as MethodSpec
    from hpfree_jax.comparison._specs import TaskSpec as TaskSpec
    from hpfree_jax.comparison._specs import parse_method as parse_method
    from hpfree_jax.comparison._specs import parse_model as parse_model
    from hpfree_jax.comparison._specs import run_config as run_config
    from hpfree_jax.comparison._suites import SUITES as SUITES
    from hpfree_jax.comparison._tables import MAX_STEPS_RATIO as MAX_STEPS_RATIO
    from hpfree_jax.comparison._tables import Table as Table
    from hpfree_jax.comparison._tables import comparison_tables as comparison_tables
    from hpfree_jax.comparison._tables import leaderboard as leaderboard
    from hpfree_jax.comparison._tables import targets_by_task as targets_by_task
