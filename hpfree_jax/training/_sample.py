"""Text from a language model at the end of its training."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpfree_jax.data import TokenDataset
from hpfree_jax.models import generate
from hpfree_jax.training._state import SAMPLE, Task, TrainState


def draw_text(task: Task, state: TrainState, num: int) -> str:
    """Draws a text that follows the beginning of a line, at the temperature 1.

    Args:
      task: of a language model.
      state: the model's.
      num: tokens to draw.

    Returns:
      The text; the numbers of the tokens, where they are no characters.
    """
    dataset = task.dataset
    assert isinstance(dataset, TokenDataset)
    characters = dataset.vocabulary
    first = max(characters.find("\n"), 0) if characters else dataset.test_tokens[0]
    params = task.method.evaluation_params(state.opt_state, state.params)
    model = nnx.merge(task.eval_graph, params, state.model_state, copy=True)
    key = jax.random.fold_in(jax.random.key(task.seed), SAMPLE)
    tokens = np.asarray(generate(model, jnp.array([[int(first)]]), num, key))[0]
    if characters is None:
        return " ".join(map(str, tokens.tolist()))
    return dataset.decode(tokens)
