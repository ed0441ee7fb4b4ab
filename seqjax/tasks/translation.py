"""Translation: sentence pairs, an encoder-decoder, label smoothing, beam search, exact match and BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveInt

from seqjax.config import STRICT, WITHOUT_SEED, Fraction, ModelConfig, OptimizerConfig, TaskTrain
from seqjax.data import numbers
from seqjax.data.buckets import TokenPairs, ordered_batches, pair_batch, training_batches
from seqjax.data.pairs import Pair, Pairs, first_pairs, load_multi30k, lowercased, read_pairs, texts_of
from seqjax.data.vocabulary import Vocabulary, bpe_vocabulary, word_vocabulary
from seqjax.errors import UserError
from seqjax.families import FAMILIES
from seqjax.families.family import Impossible
from seqjax.host.folders import cache_folder, data_folder, expanded
from seqjax.layers.cross_entropy import token_cross_entropy, weighted_cross_entropy
from seqjax.models.beam import best_targets
from seqjax.models.seq2seq import Seq2Seq
from seqjax.tasks.bleu import bleu, need_sacrebleu
from seqjax.tasks.task import NOWHERE, Objective, Task, Where, count_parameters, digest, found

Tree = Any
EVALUATION_ROWS = 100
HELD_OUT = 1_000  # numbers for validation, and as many for the test


@dataclass(frozen=True)
class TranslationTask:
    """The sentence pairs, the loss, and the search for translations."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Literal["translation"] = "translation"
    """The task."""
    corpus: str = "numbers"
    """numbers (in words to digits, generated), multi30k (German to English), or the start of the names of your own
    files: PATH.train.source and PATH.train.target, PATH.validation.*, and PATH.test.* if there is a test set."""
    vocabulary: Literal["words"] | Annotated[int, Field(ge=258)] = "words"
    """Tokens of both sides together: words, or the size of a byte pair encoding."""
    lowercase: bool = False
    """Convert both sides to lower case."""
    training_pairs: PositiveInt | None = None
    """At most this many training pairs; null: all (numbers: 20,000)."""
    max_length: PositiveInt = 64
    """Tokens of a sentence, its end mark included; longer pairs are left out."""
    attention: bool = True
    """Recurrent decoders: attention to every state of the encoder (Bahdanau), or one context vector (Cho)."""
    label_smoothing: Fraction = 0.1
    """Share of the target probability that is spread over the whole vocabulary."""
    beam: PositiveInt = 5
    """Width of the beam search in the final test."""
    length_penalty: NonNegativeFloat = 0.6
    """Exponent of the length penalty (Wu et al. 2016, equation 14)."""


@dataclass(frozen=True)
class Config:
    """The config of one run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    lane_keys: ClassVar = WITHOUT_SEED  # the lengths of a step's sentences depend on it
    model: ModelConfig
    task: TranslationTask = field(default_factory=TranslationTask)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TaskTrain = field(default_factory=TaskTrain)


@dataclass(frozen=True)
class Translation:
    """Data, vocabulary and model of a run."""

    config: Config
    pairs: Pairs
    vocabulary: Vocabulary
    model: Seq2Seq


def check(config: Config) -> None:
    """Raise `Impossible` for a family that cannot be a decoder (window), or more pairs of numbers than there are."""
    if not config.model.reads_memory:
        able = ", ".join(name for name, family in FAMILIES.items() if family.reads_memory)
        raise Impossible("model.family", f"'{config.model.family}' cannot decode; allowed: {able}")
    most, pairs = numbers.MOST - 2 * HELD_OUT, config.task.training_pairs
    if config.task.corpus == "numbers" and pairs is not None and pairs > most:
        raise Impossible("task.training_pairs", f"{pairs:,} is too many; the corpus 'numbers' has at most {most:,}")


def load(config: Config, where: Where = NOWHERE) -> Translation:
    """Read the pairs, train the vocabulary on the training split, make the model.

    Raises:
        UserError: the data is absent or damaged.
    """
    task = config.task if where.corpus is None else replace(config.task, corpus=where.corpus)
    pairs = load_pairs(task)
    texts = texts_of(pairs.splits["train"])
    kind = config.task.vocabulary
    vocabulary = word_vocabulary(texts) if kind == "words" else bpe_vocabulary(texts, kind)
    return Translation(config, pairs, vocabulary, make_model(config, vocabulary))


def make_model(config: Config, vocabulary: Vocabulary) -> Seq2Seq:
    """The encoder-decoder of a config."""
    task, dtype = config.task, config.train.compute_dtype
    return Seq2Seq(config.model, vocabulary.size, task.max_length, task.attention, dtype)


def load_pairs(task: TranslationTask) -> Pairs:
    """The pairs of a config's corpus."""
    if task.corpus == "numbers":
        pairs = numbers.number_pairs(task.training_pairs or 20_000, HELD_OUT)
    elif task.corpus == "multi30k":
        pairs = load_multi30k(data_folder(), cache_folder())
    else:
        pairs = Pairs(task.corpus, _own_pairs(expanded(task.corpus)))
    pairs = lowercased(pairs) if task.lowercase else pairs
    return pairs if task.training_pairs is None else first_pairs(pairs, task.training_pairs)


def _own_pairs(start: Path) -> dict[str, tuple[Pair, ...]]:
    splits = {}
    for split in ("train", "validation", "test"):
        source, target = (start.parent / f"{start.name}.{split}.{side}" for side in ("source", "target"))
        if split != "test" or source.exists() or target.exists():
            if not source.exists():
                raise UserError(
                    f"task.corpus: no file {source}; allowed: numbers, multi30k, or the start of such names"
                )
            splits[split] = read_pairs(source, target)
    return splits


def tokenized(pairs: Sequence[Pair], vocabulary: Vocabulary, longest: int | None = None) -> TokenPairs:
    """Token ids with marks; pairs longer than ``longest`` on either side are left out.

    Raises:
        UserError: no pair is left.
    """
    sources, targets = [], []
    for source, target in pairs:
        x = np.array([*vocabulary.encode(source), vocabulary.end], np.int32)
        y = np.array([vocabulary.begin, *vocabulary.encode(target), vocabulary.end], np.int32)
        if longest is None or max(len(x), len(y) - 1) <= longest:
            sources.append(x)
            targets.append(y)
    if not sources:
        raise UserError(f"task.max_length: no pair has at most {longest} tokens")
    return TokenPairs(tuple(sources), tuple(targets))


def make_task(config: Config, data: Translation) -> Task:
    """The held-out loss is in nats per target token, end mark included, without smoothing. At the end "test"."""
    model = make_model(config, data.vocabulary)
    translation = replace(data, config=config, model=model)
    vocabulary, splits, longest = data.vocabulary, data.pairs.splits, config.task.max_length
    train = tokenized(splits["train"], vocabulary, longest)
    validation = tokenized(splits["validation"], vocabulary, longest)
    test_pairs = splits.get("test", ())
    kept = {"train": train, "validation": validation}
    if test_pairs:  # problems of the final test are found before the first step
        kept["test"] = tokenized(test_pairs, vocabulary, longest)
        need_sacrebleu()
        if empty := next((n for n, (source, _) in enumerate(test_pairs, 1) if not vocabulary.encode(source)), None):
            raise UserError(f"{translation.pairs.name}: sentence {empty} of the test split is empty")
    left_out = {name: n for name, pairs in kept.items() if (n := len(splits[name]) - len(pairs.sources))}
    size = config.train.batch_size
    chosen = training_batches(train, config.train.seed, size)
    batches = [batch for _, batch in ordered_batches(validation, EVALUATION_ROWS)]
    objective = make_objective(config, model)

    def batch(step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        indices = chosen(step)
        tokens = sum(len(train.targets[i]) - 1 for i in indices)
        return weighted(pair_batch(train, indices, rows=rows), len(indices) / tokens)

    def final(params: Tree) -> dict[str, Any]:
        said = {"longer_than_max_length": left_out} if left_out else {}
        said |= {"repeats": data.pairs.repeats} if any(data.pairs.repeats.values()) else {}
        if not test_pairs:
            return said
        return said | {"test": test(translation, params, test_pairs) | per_token(translation, params, test_pairs)}

    return Task(
        objective=objective,
        batch=batch,
        batch_rows=batch if size <= len(train) else None,
        held_out=lambda final: batches,
        summary=lambda scores, final: found(_mean(scores)),
        final=final,
        evaluate_every=config.train.evaluate_every,
        parameters=count_parameters(objective, ("encoder", "decoder")),
        unit="pairs",
        per_step=min(size, len(train)),
        rows=len(train) if size > len(train) else None,
        available=len(train),
        digests={"data_sha256": digest(sorted(splits.items()))},
        notes=data.pairs.notes,
    )


def weighted(batch: dict[str, np.ndarray], weight: float | None = None) -> dict[str, np.ndarray]:
    """The batch with "weights" BxT: the mean over rows of weighted sums is then the mean over target tokens.

    Args:
        weight: rows over target tokens, where these are rows of a larger batch; None: of this batch.
    """
    mask_BxT = batch["target_mask"][:, 1:]
    weight = len(mask_BxT) / mask_BxT.sum() if weight is None else weight
    return batch | {"weights": (mask_BxT * weight).astype(np.float32)}


def make_objective(config: Config, model: Seq2Seq) -> Objective:
    """Smoothed cross-entropy in nats, mean over the target tokens without padding."""
    smoothing = config.task.label_smoothing

    def init(key: jax.Array) -> Tree:
        tokens_1x1 = jnp.zeros((1, 1), jnp.int32)
        return model.init(key, tokens_1x1, jnp.ones((1, 1), bool), tokens_1x1)["params"]

    def loss(params: Tree, batch: dict[str, jax.Array], carry: None, key: jax.Array) -> tuple[jax.Array, None]:
        weights_BxT = batch["weights"] / len(batch["weights"])
        targets_BxT = batch["target"][:, 1:]
        readout = partial(weighted_cross_entropy, targets_BxT=targets_BxT, weights_BxT=weights_BxT, smoothing=smoothing)
        arguments = (batch["source"], batch["source_mask"], batch["target"][:, :-1])
        return model.apply({"params": params}, *arguments, True, readout, rngs={"dropout": key}), None

    return Objective(init, loss, lambda params, batch, carry: (_losses(model, params, batch), None),
                     elements=2 * config.train.batch_size * config.task.max_length)  # fmt: skip


@partial(jax.jit, static_argnums=0)
def _losses(model: Seq2Seq, params: Tree, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross-entropies of the target tokens without padding, in nats, and their number."""
    readout = partial(token_cross_entropy, targets_BxT=batch["target"][:, 1:])
    arguments = (batch["source"], batch["source_mask"], batch["target"][:, :-1])
    loss_BxT = model.apply({"params": params}, *arguments, readout=readout)
    mask_BxT = batch["target_mask"][:, 1:]
    return jnp.where(mask_BxT, loss_BxT, 0.0).sum(), mask_BxT.sum()


def _mean(found: Sequence[tuple[Any, Any]]) -> float:
    return float(sum(float(total) for total, _ in found) / sum(int(count) for _, count in found))


def per_token(translation: Translation, params: Tree, pairs: Sequence[Pair]) -> dict[str, float]:
    """{"loss": nats per target token, end mark included}, teacher-forced and without smoothing."""
    tokens = tokenized(pairs, translation.vocabulary, translation.config.task.max_length)
    losses = [_losses(translation.model, params, batch) for _, batch in ordered_batches(tokens, EVALUATION_ROWS)]
    return {"loss": _mean(jax.device_get(losses))}


def translate(
    translation: Translation, params: Tree, sources: Sequence[str], beam: int, penalty: float = 0.0
) -> list[str]:
    """The best translation of each sentence by beam search. Sentences are cut at `max_length`.

    Raises:
        UserError: an empty sentence.
    """
    vocabulary, longest = translation.vocabulary, translation.config.task.max_length
    tokens = []
    for number, source in enumerate(sources, 1):
        ids = vocabulary.encode(source)[: longest - 1]
        if not ids:
            raise UserError(f"sentence {number}: is empty")
        tokens.append(np.array([*ids, vocabulary.end], np.int32))
    pairs = TokenPairs(tuple(tokens), tuple(np.zeros(1, np.int32) for _ in tokens))
    found: list[str] = [""] * len(tokens)
    for indices, batch in ordered_batches(pairs, min(EVALUATION_ROWS, len(tokens))):
        length = min(longest, batch["source"].shape[1] + 16)
        best = best_targets(
            translation.model, params, batch["source"], batch["source_mask"], vocabulary.begin, vocabulary.end,
            beam, length, penalty,
        )  # fmt: skip
        for index, row in zip(indices, np.asarray(best), strict=False):
            found[index] = vocabulary.decode(row)
    return found


def test(translation: Translation, params: Tree, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Greedy and beam search over held-out pairs: share of exact matches, BLEU, and the first translations."""
    task = translation.config.task
    sources, references = zip(*pairs, strict=True)
    found: dict[str, Any] = {"sentences": len(pairs)}
    for name, beam, penalty in (("greedy", 1, 0.0), ("beam", task.beam, task.length_penalty)):
        answers = translate(translation, params, sources, beam, penalty)
        exact = np.mean([answer == reference for answer, reference in zip(answers, references, strict=True)])
        found[name] = {"exact": float(exact), **bleu(answers, references)}
    shown = list(zip(sources, references, answers, strict=True))[:5]
    found["examples"] = [{"source": s, "reference": r, "answer": a} for s, r, a in shown]
    return found
