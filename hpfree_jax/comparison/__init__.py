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
    from hpfree_jax.comparison._results import Summary as Summary
    from hpfree_jax.comparison._specs import MethodSpec as MethodSpec
    from hpfree_jax.comparison._specs import TaskSpec as TaskSpec
    from hpfree_jax.comparison._suites import SUITES as SUITES
