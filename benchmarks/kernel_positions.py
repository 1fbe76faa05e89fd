"""Kernels of convolutions under the spectral norm: folded into the fan-in, or apart.

    python benchmarks/kernel_positions.py --data-dir ~/tensorflow_datasets [--seeds 3]

The two convolutional tasks of the no-tuning suite, at the rate and schedule of
``hp.auto``, with all singular directions and a decay that is proportional to depth.
*Folded* orthogonalises a kernel of K positions as one matrix of K d_in x d_out; *apart*
orthogonalises the d_in x d_out matrix of each position, with the same scale. Prints the
mean test accuracy and training loss.
"""

import argparse
import dataclasses
import statistics

import optax

import hpfree_jax as hp
from hpfree_jax.comparison._compare import load_datasets
from hpfree_jax.comparison._runner import Runner
from hpfree_jax.comparison._specs import MethodSpec
from hpfree_jax.comparison._suites import SUITES
from hpfree_jax.methods._method import Method
from hpfree_jax.training import METHODS
from hpfree_jax.training.engine import Intervals

TASKS = ("cnn_cifar10", "lenet5_mnist")


def apart(rule, shape):
    """The rule that makes each position a matrix of its own, of the same scale."""
    if not isinstance(rule, hp.Matrix) or not rule.position_axes:
        return rule
    return dataclasses.replace(
        rule,
        position_axes=(),
        stack_axes=tuple(sorted((*rule.stack_axes, *rule.position_axes))),
        scale_divisor=rule.scale_divisor * rule.fans(shape)[2],
    )


def build(length, architecture, layout, *, fold):
    shapes, depth = dict(architecture.leaves), architecture.mean_path_depth
    # A vector cannot follow a leader with more stack axes: it is a table of one row.
    rules = {
        path: rule if fold else apart(rule, shapes[path])
        for path, rule in layout.items()
        if not isinstance(rule, hp.Vector)
    }
    vectors = {
        path: hp.Matrix((), tuple(range(len(shapes[path])))) for path in layout.vectors
    }
    return optax.chain(
        hp.scale_by_steepest_descent(
            hp.Layout(rules | vectors), tables=vectors, momentum=0.9, nesterov=True
        ),
        optax.add_decayed_weights(0.02 * depth),
        optax.inject_hyperparams(optax.scale_by_learning_rate)(
            optax.linear_schedule(0.2 / depth, 0.0, length.total_steps)
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    tasks = [task for task in SUITES["no-tuning"] if task.name in TASKS]
    datasets = load_datasets(tasks, args.data_dir)
    print("| task | kernel positions | test accuracy, % | training loss |")
    print("| --- | --- | ---: | ---: |")
    for task in tasks:
        for name, fold in (("folded", True), ("apart", False)):
            METHODS[name] = Method(
                lambda length, fold=fold, **model: build(length, **model, fold=fold),
                {},
                "default",
                "this benchmark",
                model_args=("architecture", "layout"),
            )
            intervals = Intervals(task.steps, task.steps // 20, task.steps)
            runner = Runner(
                task, MethodSpec(name, name, {}), datasets[task.name], intervals
            )
            records = [runner.run([seed], [{}])[0] for seed in range(args.seeds)]
            accuracies = [100 * record.final_test_accuracy for record in records]
            spread = statistics.stdev(accuracies) if args.seeds > 1 else 0.0
            loss = statistics.fmean(record.final_loss for record in records)
            print(
                f"| {task.name} | {name} | {statistics.fmean(accuracies):.1f} ± "
                f"{spread:.1f} | {loss:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
