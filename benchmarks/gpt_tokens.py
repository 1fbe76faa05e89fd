"""Tokens per second of a training step of the character GPT, beside PyTorch.

    python benchmarks/gpt_tokens.py --torch-python ../venv-torch2/bin/python

Both train nanoGPT's character-level model (6 blocks, 384 wide, 6 heads, context 256,
without biases, tied) in float32 with AdamW on random tokens, each in a process of its
own on the same two cores. They take turns of a step; while one works the other waits.
Ours is the compiled step of the trainer. PyTorch's is written for this comparison with
its fused attention and optimizer; --compile also compiles its model.

The floor of each is the time of its matrix products alone: in each round both also
compute those of one block, forward and backward, at the shapes that they have in the
step, and the step has six times as many. (The products of the readout, less than one
in a hundred, are left out, and what is masked in the attention is counted as computed.)
Dropout is off, unless --dropout says otherwise.
"""

import argparse
import os
import statistics
import sys
import time

VOCABULARY, DEPTH, WIDTH, HEADS, CONTEXT = 65, 6, 384, 6, 256
RATE, DECAY = 1e-3, 0.1


def dense_shapes():
    """Inputs and outputs of the dense layers of a block: qkv, out, up, down."""
    return [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]


def product_flops(batch):
    """Operations of the products of a block: two passes back for each one forward."""
    attention = 2 * CONTEXT * WIDTH  # products for a token
    return 3 * 2 * batch * CONTEXT * (12 * WIDTH**2 + attention)


def block_products(arrays):
    """The products of a block; of arrays of JAX or PyTorch."""
    dense, attention = arrays
    for inputs, kernel, outputs in dense:
        yield inputs @ kernel
        yield outputs @ kernel.T
        yield inputs.T @ outputs
    for x, weights in attention:
        yield x @ x.swapaxes(-1, -2)
        yield weights @ x
        yield weights.swapaxes(-1, -2) @ x


def product_arrays(batch, make):
    """What :func:`block_products` takes, made of shapes."""
    tokens = batch * CONTEXT
    dense = [(make(tokens, i), make(i, o), make(tokens, o)) for i, o in dense_shapes()]
    features, weights = (
        (batch, HEADS, CONTEXT, size) for size in (WIDTH // HEADS, CONTEXT)
    )
    # Twice: scores and the weights' cotangents, the output and that of the queries, ...
    return dense, [(make(*features), make(*weights)) for _ in range(2)]


def make_jax_runs(batch, dropout):
    """The trainer's step, and the products of a block, in JAX."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from hpfree_jax.data import TokenDataset
    from hpfree_jax.training import TrainConfig
    from hpfree_jax.training.engine import ResidentData, make_step, prepare

    tokens = np.random.default_rng(0).integers(VOCABULARY, size=100_000)
    tokens = tokens.astype(np.uint8)
    dataset = TokenDataset("random", tokens, tokens, VOCABULARY, CONTEXT)
    config = TrainConfig(
        dataset="tiny_shakespeare",
        model="gpt_char",
        dropout=dropout,
        method="adamw",
        learning_rate=RATE,
        weight_decay=DECAY,
        batch_size=batch,
    )
    task, state = prepare(config, dataset)
    train_step = make_step(task)
    examples = jax.device_put(dataset.train_arrays)
    data = ResidentData(examples, dataset.epoch_order(task.order_key))
    carry = [state]

    def step():
        carry[0], metrics = train_step(carry[0], data, 1)
        metrics.block_until_ready()

    arrays = product_arrays(batch, lambda *shape: jnp.ones(shape))
    multiply = jax.jit(lambda arrays: list(block_products(arrays)))

    def products():
        jax.block_until_ready(multiply(arrays))

    return {"step": step, "products": products}


def make_torch_runs(batch, dropout, compiled):
    """The same model's step in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(2)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            dense = lambda i, o: nn.Linear(i, o, bias=False)
            self.norms = nn.ModuleList(
                nn.LayerNorm(WIDTH, bias=False) for _ in range(2)
            )
            self.qkv, self.out = dense(WIDTH, 3 * WIDTH), dense(WIDTH, WIDTH)
            self.up, self.down = dense(WIDTH, 4 * WIDTH), dense(4 * WIDTH, WIDTH)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            parts = self.qkv(self.norms[0](x)).split(WIDTH, dim=-1)
            split = lambda part: part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            y = functional.scaled_dot_product_attention(
                *map(split, parts), is_causal=True
            )
            x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
            y = functional.gelu(self.up(self.norms[1](x)), approximate="tanh")
            return x + self.dropout(self.down(y))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.positions = nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
            self.norm = nn.LayerNorm(WIDTH, bias=False)
            self.dropout = nn.Dropout(dropout)
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x = self.tokens(tokens) + self.positions.weight
            x = self.norm(self.blocks(self.dropout(x)))
            logits = x @ self.tokens.weight.T
            return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    module = Model()
    model = torch.compile(module) if compiled else module
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=RATE, weight_decay=DECAY, fused=True
    )
    text = torch.randint(VOCABULARY, (100_000,))

    def step():
        starts = torch.randint(len(text) - CONTEXT, (batch, 1))
        window = text[starts + torch.arange(CONTEXT + 1)]
        optimizer.zero_grad(set_to_none=True)
        loss = model(window[:, :-1], window[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.item()

    arrays = product_arrays(batch, torch.ones)

    def products():
        with torch.no_grad():
            for _ in block_products(arrays):
                pass

    return {"step": step, "products": products}


def serve(runs):
    """Answers each line with a name on standard input with the seconds of a run."""
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        runs[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def begin(python, side, args):
    """Starts one side in a process of its own, and waits until it is ready."""
    import subprocess

    command = [python, __file__, "--serve", side, f"--batch={args.batch}"]
    command += [f"--dropout={args.dropout}"] + ["--compile"] * args.compile
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{side} did not start with {python}: see its error above")
    return process


def take_turn(process, name):
    """Returns the seconds of one run."""
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main():
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="Tokens per second of a GPT")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--compile", action="store_true", help="PyTorch's model")
    parser.add_argument("--serve", choices=["jax", "torch"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == "jax":
        return serve(make_jax_runs(args.batch, args.dropout))
    if args.serve == "torch":
        return serve(make_torch_runs(args.batch, args.dropout, args.compile))
    if hasattr(os, "sched_setaffinity"):  # inherited by both
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    ours = begin(sys.executable, "jax", args)
    theirs = begin(args.torch_python, "torch", args)
    sides = {"JAX": ours, "PyTorch": theirs}
    turns = {
        (name, run): (process, run)
        for run in ("step", "products")
        for name, process in sides.items()
    }
    seconds = {name: [] for name in turns}
    for round_ in range(args.rounds + 2):  # the first two compile and warm up
        for name, turn in turns.items():
            taken = take_turn(*turn)
            if round_ > 1:
                seconds[name].append(taken)
    for process in (ours, theirs):
        assert process.stdin
        process.stdin.close()
        process.wait()
    tokens = args.batch * CONTEXT
    print(f"batch {args.batch}, dropout {args.dropout:g}, {args.rounds} rounds")
    columns = f"{'tokens/s':>10}{'fastest':>10}{'products':>16}{'share of a step':>16}"
    print(f"{'':<10}{columns}")
    for name in sides:
        steps, products = seconds[name, "step"], seconds[name, "products"]
        median, fastest = statistics.median(steps), min(steps)
        speed = product_flops(args.batch) / min(products) / 1e9
        floor = DEPTH * min(products)
        print(
            f"{name:<10}{tokens / median:>10,.0f}{tokens / fastest:>10,.0f}"
            f"{speed:>8.0f} GFLOP/s{floor / fastest:>16.0%}"
        )
    pairs = zip(seconds["PyTorch", "step"], seconds["JAX", "step"], strict=True)
    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    print(f"JAX / PyTorch: {ratio:.2f}, median over rounds. Target: 1.0.")


if __name__ == "__main__":
    main()
