"""Trains a small character-level GPT on Shakespeare with AGD, and lets it write.

Needs the extra `train`, and downloads the text (1 MB) on first use. It is a model for
one minute on a laptop: see `hpfree train --model gpt_char` for the whole one.
"""

import argparse
from pathlib import Path

from hpfree_jax.training import TrainConfig, train

parser = argparse.ArgumentParser(description="A small GPT, trained with AGD")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--output-dir", type=Path)
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--width", type=int, default=64)
args = parser.parse_args()

result = train(
    TrainConfig(
        dataset="tiny_shakespeare",
        model="gpt_char",
        depth=2,
        width=args.width,
        heads=2,
        context=64,
        dropout=0.0,
        batch_size=64,
        accumulate=2,  # the same step from half of the memory
        epochs=args.epochs,
        sample_tokens=200,
        data_dir=args.data_dir,
        output_dir=args.output_dir,
    )
)
print(f"test perplexity: {result.test_perplexity:.2f}")
print(result.sample)
