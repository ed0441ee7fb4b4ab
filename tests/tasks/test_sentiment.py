"""Sentence classifiers: the loss is torch's, padding changes no logits, and order is learned where order decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick

from seqjax.config import ModelConfig, OptimizerConfig, TaskTrain
from seqjax.data.sentiment import Batch, Sentences, Splits, in_order, load_splits
from seqjax.families import GRU, LSTM, Elman, Transformer, Window
from seqjax.tasks.sentiment import Config, SentimentTask, make_model, make_objective, make_task, prepare, score
from seqjax.training import loop

BAG = Transformer(d_model=8, n_layers=0, positions="none", norm="none")

MODELS: dict[str, ModelConfig] = {
    "bag": BAG,
    "window": Window(d_model=8, window=3, d_ff=12),
    "elman": Elman(d_model=8, n_layers=1),
    "lstm": LSTM(d_model=8, n_layers=1),
    "gru": GRU(d_model=8, n_layers=1),
    "transformer": Transformer(d_model=8, n_layers=1, n_heads=2),
}


def made(lengths: tuple[int, ...] = (3, 9, 1, 6, 6), n_words: int = 9) -> Sentences:
    rng = np.random.default_rng(0)
    words = tuple(tuple(f"w{i}" for i in rng.integers(n_words, size=length)) for length in lengths)
    return Sentences(words, (np.arange(len(lengths)) % 2).astype(np.int32))


@pytest.mark.parametrize(("pool", "causal"), [("last", True), ("attention", False)])
@pytest.mark.parametrize("name", quick(MODELS, "gru", "transformer"))
def test_padding_changes_no_logits(name: str, pool: str, causal: bool) -> None:
    """A sentence alone and without a mask, against the same among others, padded with noise."""
    tokens_BxT = np.random.default_rng(1).integers(2, 11, size=(3, 7))
    mask_BxT = np.arange(7)[None] < np.array([3, 7, 1])[:, None]
    config = Config(MODELS[name], task=SentimentTask(pool=pool, causal=causal))  # type: ignore[arg-type]
    model = make_model(config, 11, 7)
    params = jax.jit(model.init)(jax.random.key(0), tokens_BxT, mask_BxT)
    apply = jax.jit(model.apply)
    logits_BxC = apply(params, tokens_BxT, mask_BxT)
    np.testing.assert_allclose(logits_BxC[:1], apply(params, tokens_BxT[:1, :3]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits_BxC[1:2], apply(params, tokens_BxT[1:2]), rtol=1e-4, atol=1e-5)


def test_the_loss_is_torchs_and_weightless_rows_are_not_there() -> None:
    torch = pytest.importorskip("torch")
    model = make_model(Config(BAG, task=SentimentTask(classes=("0", "1", "2"))), 11, 7)
    rng = np.random.default_rng(0)
    tokens_BxT, labels_B = rng.integers(11, size=(5, 7)), rng.integers(3, size=5).astype(np.int32)
    weights_B = np.array([1, 1, 0, 1, 0], np.float32)
    batch = Batch(tokens_BxT, np.ones((5, 7), bool), labels_B, weights_B)
    weighed = batch._replace(weights_B=weights_B / weights_B.mean())  # as batches of training are
    params = jax.jit(model.init)(jax.random.key(0), tokens_BxT)["params"]
    value, carry = jax.jit(make_objective(model, 7, 5).loss)(params, weighed, None, jax.random.key(1))
    logits_BxC = torch.tensor(np.array(jax.jit(model.apply)({"params": params}, tokens_BxT)))
    there = weights_B > 0
    expected = torch.nn.functional.cross_entropy(logits_BxC[there], torch.tensor(labels_B[there]).long())
    assert carry is None and float(value) == pytest.approx(float(expected), rel=1e-5)
    loss, accuracy = score(model, params, [batch, batch])
    assert loss == pytest.approx(float(expected), rel=1e-5)
    right = (logits_BxC.argmax(dim=1).numpy() == labels_B)[there]
    assert accuracy == pytest.approx(right.mean())


def test_a_bag_of_words_is_a_logistic_regression_on_word_frequencies() -> None:
    model = make_model(Config(BAG, task=SentimentTask()), 11, 7)
    tokens_BxT = np.random.default_rng(0).integers(11, size=(5, 7))
    params = jax.jit(model.init)(jax.random.key(0), tokens_BxT)["params"]
    frequency_BxV = np.stack([np.bincount(ids, minlength=11) / 7 for ids in tokens_BxT])
    weights_VxC = jnp.sqrt(8.0) * params["embedding"]["embedding"] @ params["head"]["out"]["W"]
    expected = frequency_BxV @ weights_VxC + params["head"]["out"]["b"]
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, tokens_BxT), expected, rtol=1e-4, atol=1e-5)


def test_buckets_hold_all_splits_and_words_of_training_alone() -> None:
    train, long = made(), made((30, 2), n_words=20)
    vocabulary, buckets = prepare(SentimentTask(least_count=1, n_buckets=2), Splits(train, long, long))
    assert set(vocabulary.ids) == {"<pad>", "<unk>", *(word for words in train.words for word in words)}
    assert all(bucket.bounds == buckets[0].bounds for bucket in buckets) and buckets[0].bounds[-1] == 32
    assert max(map(len, buckets[1].tokens)) == 30
    _, cut = prepare(SentimentTask(longest=5, n_buckets=2), Splits(train, long, long))
    assert cut[0].bounds[-1] == 5 and max(map(len, cut[1].tokens)) == 5
    assert sum(int(batch.weights_B.sum()) for batch in in_order(cut[0], 2)) == len(train.labels)


def learned(model: ModelConfig, pool: str, folder: Path, score_test: bool = True, **train: Any) -> dict[str, Any]:
    about = SentimentTask(corpus="phrases", least_count=1, n_buckets=1, pool=pool, score_test=score_test)  # type: ignore[arg-type]
    optimizer = OptimizerConfig(learning_rate=1e-2, schedule="linear")
    config = Config(model, optimizer, TaskTrain(**({"batch_size": 50, "evaluate_every": 75} | train)), about)
    splits = load_splits("phrases", about.classes, folder, folder)
    return loop.train(config, folder / "run", task=make_task(config, splits), quiet=True)


def test_a_recurrent_model_learns_that_order_decides(tmp_path: Path) -> None:
    result = learned(GRU(d_model=32, n_layers=1), "last", tmp_path, steps=150)
    assert result["test"]["accuracy"] > 0.95 and result["test"]["sentences"] == 2000


def test_a_bag_of_words_does_not(tmp_path: Path) -> None:
    result = learned(replace(BAG, d_model=32), "mean", tmp_path, steps=150)
    assert result["test"]["accuracy"] < 0.65 and result["validation"]["accuracy"] < 0.65


def test_a_search_leaves_the_test_set_alone(tmp_path: Path) -> None:
    assert "test" not in learned(BAG, "mean", tmp_path, score_test=False, steps=2)
