"""Compares AGD with a tuned Adam and with Prodigy on real digits, in a minute.

Needs the extra `train`: pip install "hpfree-jax[train]". The same from a shell:

    hpfree compare --methods agd prodigy --grid adam --models fcn:depth=3,width=64 \
        --seeds 2 --steps 100
"""

import statistics

from hpfree_jax.comparison import CompareConfig, compare

result = compare(
    CompareConfig(
        methods=("agd", "prodigy"),
        grid=("adam",),
        models=("fcn:depth=3,width=64",),
        datasets=("digits",),
        seeds=2,
        steps=100,
    )
)
assert result.summary is not None  # it is None after Ctrl-C
for (task, method), own in result.summary.results.items():
    target = result.summary.targets[task]
    accuracy = statistics.fmean(own.final("final_test_accuracy"))
    print(
        f"{task}  {method}: test accuracy {accuracy:.1%}, "
        f"{own.steps_to(target.loss):g} steps to {target.source}'s loss"
    )
print(f"report: {result.directory / 'report.html'}")
