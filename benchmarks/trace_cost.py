# ruff: noqa: D102 (the classes are described)
"""Time and peak memory of reading the graphs of large models, and how both grow.

    python benchmarks/trace_cost.py [--models resnet152 ...] [--blocks 10 100 1000]

Each case runs in a process of its own on one core, where the operating system allows
it: the first call of `hp.trace_architecture`, JAX's own tracing included, then every
path statistic, the layout and the summary. The memory is the peak of the process, JAX
and Flax included. Nothing is computed: the models come from `nnx.eval_shape`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
from flax import nnx

import hpfree_jax as hp

SECONDS, MEGABYTES = 10, 1000  # the marks


class Norm(nnx.Module):
    """Batch normalisation in training mode, and a ReLU."""

    def __init__(self, features, rngs):
        self.norm = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x):
        return jax.nn.relu(self.norm(x))


def conv(ins, outs, size, rngs, strides=1):
    return nnx.Conv(ins, outs, (size, size), strides=strides, use_bias=False, rngs=rngs)


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1, added to the stream: He et al., 2015."""

    def __init__(self, ins, width, strides, rngs):
        outs = 4 * width
        self.layers = nnx.Sequential(
            conv(ins, width, 1, rngs),
            Norm(width, rngs),
            conv(width, width, 3, rngs, strides),
            Norm(width, rngs),
            conv(width, outs, 1, rngs),
            nnx.BatchNorm(outs, rngs=rngs),
        )
        self.skip = nnx.List()  # of a projection where the shape changes
        if ins != outs:
            self.skip.append(conv(ins, outs, 1, rngs, strides))
            self.skip.append(nnx.BatchNorm(outs, rngs=rngs))

    def __call__(self, x):
        skip = x
        for layer in self.skip:
            skip = layer(skip)
        return jax.nn.relu(self.layers(x) + skip)


class ResNet(nnx.Module):
    """ResNet for 224 x 224 pixels."""

    def __init__(self, blocks, rngs):
        self.stem = nnx.Sequential(conv(3, 64, 7, rngs, 2), Norm(64, rngs))
        ins, layers = 64, []
        for stage, number in enumerate(blocks):
            for block in range(number):
                strides = 2 if stage and not block else 1
                layers.append(Bottleneck(ins, 64 * 2**stage, strides, rngs))
                ins = 4 * 64 * 2**stage
        self.blocks = nnx.List(layers)
        self.head = nnx.Linear(ins, 1000, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(self.stem(x), (3, 3), (2, 2), "SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class DenseLayer(nnx.Module):
    """1x1 and 3x3, concatenated to what there is: Huang et al., 2016."""

    def __init__(self, ins, growth, rngs):
        self.layers = nnx.Sequential(
            Norm(ins, rngs),
            conv(ins, 4 * growth, 1, rngs),
            Norm(4 * growth, rngs),
            conv(4 * growth, growth, 3, rngs),
        )

    def __call__(self, x):
        return jnp.concatenate([x, self.layers(x)], axis=-1)


class DenseNet(nnx.Module):
    """DenseNet-BC for 32 x 32 pixels, three blocks."""

    def __init__(self, depth, growth, rngs):
        features = 2 * growth
        self.stem = conv(3, features, 3, rngs)
        self.blocks, self.ends = nnx.List(), nnx.List()
        for block in range(3):
            layers = []
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(features, growth, rngs))
                features += growth
            self.blocks.append(nnx.Sequential(*layers, Norm(features, rngs)))
            if block < 2:
                self.ends.append(conv(features, features // 2, 1, rngs))
                features //= 2
        self.head = nnx.Linear(features, 10, rngs=rngs)

    def __call__(self, x):
        x = self.blocks[0](self.stem(x))
        for end, block in zip(self.ends, self.blocks[1:], strict=True):
            x = block(nnx.avg_pool(end(x), (2, 2), (2, 2)))
        return self.head(x.mean(axis=(1, 2)))


class Block(nnx.Module):
    """Pre-normalised attention with fused projections, and an MLP."""

    def __init__(self, width, heads, rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.heads = heads

    def __call__(self, x):
        split = lambda a: a.reshape(*a.shape[:-1], self.heads, -1)
        q, k, v = map(split, jnp.split(self.qkv(self.norms[0](x)), 3, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        x += self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class GPT(nnx.Module):
    """GPT-2, with tied embeddings."""

    def __init__(self, blocks, width, heads, rngs):
        self.tokens = nnx.Embed(50257, width, rngs=rngs)
        self.positions = nnx.Embed(1024, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, x):
        x = self.tokens(x) + self.positions(jnp.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.tokens.attend(self.norm(x))


IMAGE = lambda size: jax.ShapeDtypeStruct((2, size, size, 3), "float32")
TOKENS = jax.ShapeDtypeStruct((2, 1024), "int32")
MODELS = {
    "resnet152": (lambda: ResNet((3, 8, 36, 3), nnx.Rngs(0)), IMAGE(224)),
    "densenet-bc-190-40": (lambda: DenseNet(190, 40, nnx.Rngs(0)), IMAGE(32)),
    "gpt2-xl": (lambda: GPT(48, 1600, 25, nnx.Rngs(0)), TOKENS),
}


def residual_mlp(num_blocks, scan):
    """Blocks of x + relu(x A) B, one after the other or in a scan, and a readout."""
    width = 64

    def block(x, weights):
        return x + jax.nn.relu(x @ weights["a"]) @ weights["b"], None

    def fn(params, x):
        x = x @ params["stem"]
        if scan:
            x, _ = jax.lax.scan(block, x, params["blocks"])
        else:
            for weights in params["blocks"]:
                x, _ = block(x, weights)
        return x @ params["head"]

    matrix = lambda *sizes: jax.ShapeDtypeStruct(sizes, "float32")
    stack = (num_blocks,) if scan else ()
    weights = {name: matrix(*stack, width, width) for name in "ab"}
    blocks = weights if scan else [weights] * num_blocks
    params = {"stem": matrix(8, width), "blocks": blocks, "head": matrix(width, 4)}
    return fn, params, matrix(1, 8)


def jaxpr_of(*args):
    """What `hp.trace_architecture` reads."""
    if not isinstance(args[0], nnx.Module):
        return jax.make_jaxpr(args[0])(*args[1:])
    graph, params, rest = nnx.split(args[0], nnx.Param, ...)
    call = lambda params, rest, x: nnx.merge(graph, params, rest)(x)
    return jax.make_jaxpr(call)(params, rest, args[1])


def measure(case):
    """Runs one case in this process and prints its numbers as JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    if case in MODELS:
        make, x = MODELS[case]
        args = nnx.eval_shape(make), x
    else:
        kind, number = case.split(":")
        args = residual_mlp(int(number), kind == "scan")
    seconds = {}

    def timed(name, call):
        start = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - start
        return result

    arch = timed("trace", lambda: hp.trace_architecture(*args))
    names = ("num_paths", "min_depth", "max_depth", "mean_path_depth")
    names += ("sum_cubed_depths",)
    timed("moments", lambda: [getattr(arch, name) for name in names])
    timed("histogram", lambda: arch.path_depths)
    timed("layout", arch.layout)
    timed("summary", arch.summary)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = sum(seconds.values())
    print(
        json.dumps(
            {
                **seconds,
                "total": total,
                "megabytes": megabytes,
                "equations": count_equations(jaxpr_of(*args).jaxpr),
                "layers": len(arch.layers),
                "nodes": len(arch.nodes),
                "paths": float(arch.num_paths) if arch.num_paths < 1e300 else None,
                "depth": arch.max_depth,
            }
        )
    )


def count_equations(jaxpr):
    """Those of inner jaxprs included, each as often as it is called, once in a scan."""
    total = len(jaxpr.eqns)
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += count_equations(inner) if hasattr(inner, "eqns") else 0
    return total


def in_subprocess(case):
    """The numbers of one case, from a process of its own."""
    result = subprocess.run(
        [sys.executable, __file__, "--case", case],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    if result.returncode:
        raise SystemExit(f"{case} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def main():
    """Prints the tables of docs/architecture_evidence.md."""
    parser = argparse.ArgumentParser(description="Cost of trace_architecture")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument(
        "--blocks", nargs="*", type=int, default=[10, 30, 100, 300, 1000]
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return measure(options.case)
    parts = ("trace", "moments", "histogram", "layout", "summary")
    print(f"jax {jax.__version__}, one core, seconds\n")
    names = " | ".join(parts)
    print(f"| model | layers | paths | equations | {names} | total | peak MB |")
    print("|" + "---|" * (len(parts) + 6))
    for model in options.models:
        row = in_subprocess(model)
        times = " | ".join(f"{row[part]:.3f}" for part in parts)
        print(
            f"| {model} | {row['layers']} | {row['paths']:.2g} | {row['equations']} | "
            f"{times} | {row['total']:.2f} | {row['megabytes']:.0f} |",
            flush=True,
        )
    print(f"\nmarks: under {SECONDS} s and under {MEGABYTES} MB\n")
    print(
        "| residual blocks | written as | equations | trace | per block | moments | "
        "histogram | layout | summary | peak MB |"
    )
    print("|" + "---|" * 10)
    for kind in ("loop", "scan"):
        for number in options.blocks:
            row = in_subprocess(f"{kind}:{number}")
            times = " | ".join(f"{row[part]:.3f}" for part in parts[1:])
            print(
                f"| {number} | {kind} | {row['equations']} | {row['trace']:.3f} | "
                f"{1e3 * row['trace'] / number:.2f} ms | {times} | "
                f"{row['megabytes']:.0f} |",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
