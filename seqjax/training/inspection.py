"""A text through a trained run, as plain arrays: see `seqjax.models.inside`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import runs
from seqjax.config import Config
from seqjax.data import Tokenizer
from seqjax.errors import UserError, utf8
from seqjax.models.inside import Inside, look_inside, next_token_losses
from seqjax.numerics import pinned
from seqjax.training.run import restore_params
from seqjax.training.setup import load_text, make_model, make_program


class InspectedRun(NamedTuple):
    """What a run made of a text.

    Attributes:
        step: of the checkpoint.
        tokens_T: the text.
        loss_T: nats; NaN for the first token, which is given.
        inside: numpy arrays.
    """

    config: Config
    tokenizer: Tokenizer
    step: int
    tokens_T: np.ndarray
    loss_T: np.ndarray
    inside: Inside

    def likeliest(self) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest token after each given one, and its probability."""
        logits_TxV = self.inside.logits_TxV.astype(np.float64)
        p_TxV = np.exp(logits_TxV - logits_TxV.max(axis=-1, keepdims=True))
        p_TxV /= p_TxV.sum(axis=-1, keepdims=True)
        return p_TxV.argmax(axis=-1), p_TxV.max(axis=-1)


@pinned()
def inspect_run(
    folder: Path, text: str, which: str, say: Callable[[str], None], corpus: str | None = None
) -> InspectedRun:
    """Read ``text`` with the parameters of a run's last or best checkpoint; ``corpus``: where its corpus is now.

    Raises:
        UserError: not a run folder; no checkpoint; a text of no or one token, or of more than the learned positions.
    """
    config = runs.read_config(folder)
    found = load_text(config, folder=folder, corpus=corpus)
    tokenizer = found.tokenizer
    runs.check_data(folder, found.corpus.sha256, tokenizer.sha256)
    tokens_T = tokenizer.encode(utf8(text, "command line: --text")).astype(np.int32)
    if len(tokens_T) < 2:
        count = "1 token" if len(tokens_T) else "no tokens"
        raise UserError(f"command line: --text {text!r}: has {count}; at least 2 are needed for a loss")
    program = make_program(config, make_model(config, tokenizer.vocab_size), devices=1)
    step, params = restore_params(config, folder, program, say, which)
    read = jax.jit(partial(look_inside, config.model, dtype=config.train.compute_dtype))
    try:
        inside = read(params, jnp.asarray(tokens_T))
    except UserError as error:
        raise UserError(f"{folder}: {error}; shorten --text") from None
    losses = next_token_losses(inside.logits_TxV, jnp.asarray(tokens_T))
    loss_T = np.concatenate([[np.nan], np.asarray(losses, np.float64)])
    return InspectedRun(config, tokenizer, step, tokens_T, loss_T, jax.tree.map(np.asarray, inside))
