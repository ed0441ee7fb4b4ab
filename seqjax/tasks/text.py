"""Predicting text, the next token from those before it.

    L = - 1 / (B T) sum_{b,t} log softmax(logits_{b,t})[x_{b,t+1}]        nats per token

A batch is int32 [B, T + 1]: its first T tokens are inputs, its last T are targets. The config is
defined in `seqjax.config`. Held-out text is evaluated in `seqjax.tasks.text_evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from seqjax.config import Config as Config
from seqjax.config import check as check
from seqjax.data import (
    Corpus,
    Tokenizer,
    TokenShard,
    cache_folder,
    load_corpus,
    load_tokenizer,
    prepare_shard,
    segments_per_epoch,
    stream_batch,
    window_batch,
)
from seqjax.data.kept import keep_tokenizer, kept_tokenizer
from seqjax.data.sources import Absent
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.layers.cross_entropy import mean_cross_entropy, token_cross_entropy
from seqjax.models import build_model
from seqjax.models.accounting import count_parameters, flops_per_token
from seqjax.tasks.task import NOWHERE, Found, Loss, Objective, Task, Where
from seqjax.tasks.text_evaluation import Evaluation, held_out_batches, summarise

Tree = Any


@dataclass(frozen=True)
class Text:
    """The corpus and tokenizer of a config. Token shards are made or opened when needed."""

    corpus: Corpus
    tokenizer: Tokenizer
    cache: Path
    progress: Callable[[str, int, int], None] | None = None

    def shard(self, split: str) -> TokenShard:
        """The tokens of one split.

        Raises:
            UserError: the corpus has no such split, or its shard is damaged.
        """
        if split not in self.corpus.splits:
            raise UserError(
                f"the corpus '{self.corpus.name}' has no split '{split}'; it has {', '.join(self.corpus.splits)}"
            )
        progress = partial(self.progress, f"tokenizing {split}") if self.progress else None
        return prepare_shard(self.corpus, split, self.tokenizer, self.cache, progress)


def load(config: Config, where: Where = NOWHERE) -> Text:
    """Corpus and tokenizer of a config. The tokenizer is the one in the run folder; without it, it is trained once and
    kept in the cache.

    Raises:
        UserError: the corpus is absent, or cannot be read.
    """
    try:
        found = load_corpus(where.corpus or config.data.corpus)
    except Absent:
        sha256 = None if where.corpus or where.folder is None else _corpus_sha256(where.folder)
        if sha256 is None:
            raise
        raise UserError(
            f"{where.folder}: the text of this run, {config.data.corpus} (sha256 {sha256[:12]}...), is not there, seen "
            f"from {Path.cwd()}: name it with --corpus PATH"
        ) from None
    tokenizer = None if where.folder is None else kept_tokenizer(where.folder)
    tokenizer = tokenizer or load_tokenizer(config.data.tokenizer, found, cache_folder())
    return Text(found, tokenizer, cache_folder(), where.progress)


def _corpus_sha256(folder: Path) -> str | None:
    """sha256 of the text that a run began with; None: the run has not begun."""
    path = folder / "data.json"
    return disk.read_json(path).get("corpus_sha256") if path.is_file() else None


def make_task(config: Config, text: Text) -> Task:
    """Training on the training split, evaluation on the validation split. The unit is "tokens".

    Raises:
        UserError: a split is absent, or too short.
    """
    check_lengths(config, text)
    train, validation = text.shard("train"), text.shard("validation")
    vocab_size, context, evaluation = text.tokenizer.vocab_size, config.train.context_length, config.evaluation

    def windows(final: bool) -> int:
        return evaluation.final_windows if final else evaluation.windows

    def summary(losses: list[np.ndarray], final: bool) -> Found:
        return as_found(summarise(config, validation, "validation", losses, windows(final)))

    return Task(
        objective=make_objective(config, vocab_size),
        batch=partial(batch_at, config, train),
        batch_rows=partial(batch_at, config, train),
        resets=partial(resets_at, config, train),
        held_out=lambda final: held_out_batches(config, validation, windows(final)),
        summary=summary,
        more_at_end=config.data.batching == "windows" and evaluation.final_windows != evaluation.windows,
        evaluate_every=evaluation.every,
        keeps="last",
        parameters=count_parameters(config.model, vocab_size, context),
        flops=flops_per_token(config.model, vocab_size, context, config.data.batching == "streams"),
        unit="tokens",
        per_step=config.train.batch_size * context,
        available=len(train.tokens),
        digests={"corpus_sha256": text.corpus.sha256, "tokenizer_sha256": text.tokenizer.sha256},
        notes=tuple(text.corpus.notes),
        keep=partial(keep_tokenizer, tokenizer=text.tokenizer),
    )


def as_found(evaluation: Evaluation) -> Found:
    """An evaluation in the form that a run records."""
    curve = {"validation_loss_se": evaluation.loss_se, "validation_bits_per_byte": evaluation.bits_per_byte}
    return Found(evaluation.loss, curve, vars(evaluation), evaluation.summary())


def check_lengths(config: Config, text: Text) -> None:
    """Check before the first step that the splits are long enough.

    Raises:
        UserError: a split is absent, or too short for one window, or for B streams of one segment.
    """
    context = config.train.context_length
    streams = config.train.batch_size if config.data.batching == "streams" else 1
    key = "train.context_length" if streams == 1 else "train.batch_size"
    what = f"{context}" if streams == 1 else f"{streams} streams of {context} tokens"
    need = streams * context + 1
    for split in ("train", "validation"):
        if (found := len(text.shard(split).tokens)) < need:
            raise UserError(
                f"{key}: {what} needs {need:,} tokens; the {split} split of '{config.data.corpus}' has {found:,}"
            )


def make_model(config: Config, vocab_size: int) -> nn.Module:
    """The language model of a config, for a vocabulary of `vocab_size` tokens."""
    train = config.train
    return build_model(config.model, vocab_size, train.context_length, train.compute_dtype, train.bptt)


def make_objective(config: Config, vocab_size: int) -> Objective:
    """The objective of a config. With streams the carry is the recurrent state; with windows there is no carry."""
    model, streams = make_model(config, vocab_size), config.data.batching == "streams"

    def score(params: Tree, batch_BxT1: jax.Array, carry: Tree) -> tuple[jax.Array, Tree]:
        loss_BxT, carried = token_losses(model, params, batch_BxT1, carry)
        return loss_BxT, carried if streams else None

    return Objective(
        init=lambda key: model.init(key, np.zeros((1, 1), np.int32))["params"],
        loss=next_token_loss(model),
        score=score,
        zero_carry=(lambda: model.initial_state(config.train.batch_size)) if streams else lambda: None,
        elements=config.train.batch_size * config.train.context_length,
    )


def next_token_loss(model: nn.Module) -> Loss:
    """Mean cross-entropy of each next token of int32 [B, T + 1], in nats per token."""

    def loss(params: Tree, batch_BxT1: jax.Array, carry: Tree, key: jax.Array) -> tuple[jax.Array, Tree]:
        readout = partial(mean_cross_entropy, targets_BxT=batch_BxT1[:, 1:])
        value, new_carry = model.apply(
            {"params": params}, batch_BxT1[:, :-1], carry, train=True, readout=readout, rngs={"dropout": key}
        )
        return value, None if carry is None else new_carry

    return loss


def token_losses(model: nn.Module, params: Tree, batch_BxT1: jax.Array, carry: Tree = None) -> tuple[jax.Array, Tree]:
    """Cross-entropy of every next token without dropout: ``loss_BxT`` in nats, and the new carry."""
    readout = partial(token_cross_entropy, targets_BxT=batch_BxT1[:, 1:])
    return model.apply({"params": params}, batch_BxT1[:, :-1], carry, readout=readout)


def batch_at(config: Config, shard: TokenShard, step: int, rows: slice = slice(None)) -> np.ndarray:
    """The int32 [B, T+1] batch of a step, or some of its rows; pure in (seed, step)."""
    size, context = config.train.batch_size, config.train.context_length
    if config.data.batching == "streams":
        return stream_batch(shard.tokens, step, size, context, rows)[0]
    return window_batch(shard.tokens, config.train.seed, step, size, context, rows)


def resets_at(config: Config, shard: TokenShard, step: int) -> bool:
    """Whether the carry is set to zero before a step: when the streams start again."""
    if config.data.batching == "windows":
        return False
    return step % segments_per_epoch(len(shard.tokens), config.train.batch_size, config.train.context_length) == 0
