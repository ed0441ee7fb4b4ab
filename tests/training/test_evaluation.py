"""Held-out loss against closed forms and against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.errors import UserError
from seqjax.laws.position import binned
from seqjax.tasks.text import load, make_model, make_objective
from seqjax.tasks.text_evaluation import bits_per_byte, evaluate
from seqjax.training.lanes import make_program


def prepared(config: Any) -> tuple[Any, Any, Any]:
    text = load(config)
    vocab_size = text.tokenizer.vocab_size
    program = make_program(config, make_objective(config, vocab_size), devices=1)
    return text, make_model(config, vocab_size), program


def test_a_model_that_knows_nothing_loses_log_v_everywhere(make_config: Any, family: str) -> None:
    config = make_config(family)
    text, _, program = prepared(config)
    params = jax.tree.map(jnp.zeros_like, program.init().params)
    found = evaluate(config, text.shard("validation"), "validation", program.score, params, None, 32)
    np.testing.assert_allclose([found.loss, *found.by_position], math.log(257), rtol=1e-6)
    assert found.loss_se == pytest.approx(0.0, abs=1e-6)
    shard = text.shard("validation")
    assert found.bits_per_byte == pytest.approx(math.log2(257) * len(shard.tokens) / shard.n_bytes)
    assert (found.windows, found.tokens) == (32, 32 * 16)


def test_means_equal_a_plain_loop(make_config: Any) -> None:
    config = make_config(
        "transformer", **{"evaluation.batch_size": 7}
    )  # does not divide the windows: the last batch is padded
    text, model, program = prepared(config)
    shard, params = text.shard("validation"), program.init().params
    found = evaluate(config, shard, "validation", program.score, params, None, 32)
    from seqjax.data import evaluation_windows

    losses, apply = [], jax.jit(model.apply)
    for start in evaluation_windows(shard.tokens, 32, 16):
        window = np.asarray(shard.tokens[start : start + 17], np.int32)
        logits, _ = apply({"params": params}, window[None, :-1])
        logits = np.asarray(logits[0], np.float64)
        log_z = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        losses.append(log_z - logits[np.arange(16), window[1:]])
    losses = np.array(losses)
    assert found.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert found.loss_se == pytest.approx(losses.mean(1).std(ddof=1) / math.sqrt(32), rel=1e-4)
    np.testing.assert_allclose(found.by_position, losses.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.by_position_se, losses.std(0, ddof=1) / math.sqrt(32), rtol=1e-4)
    bins = binned(found.by_position, found.by_position_se, found.by_bin_se)
    last = losses[:, bins.first[-1] - 1 :].mean(1)
    assert bins.last[-1] == 16 and len(last) > 1
    assert bins.error[-1] == pytest.approx(last.std(ddof=1) / math.sqrt(32), rel=1e-4)


def test_streams_equal_one_long_sequence(make_config: Any) -> None:
    config = make_config("gru", **{"data.batching": "streams", "train.batch_size": 2})
    text, _, program = prepared(config)
    shard, params = text.shard("validation"), program.init().params
    found = evaluate(config, shard, "validation", program.score, params, program.zero_carry(), 1)
    length = (len(shard.tokens) - 1) // 2
    segments = length // 16
    streams = np.stack([np.asarray(shard.tokens[b * length :][: segments * 16 + 1], np.int32) for b in range(2)])
    losses, _ = program.score(params, streams, None)
    assert found.protocol == "streams" and found.tokens == 2 * segments * 16
    losses = np.asarray(losses, np.float64)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-5)
    of_streams_BxT = losses.reshape(2, segments, 16).mean(axis=1)
    np.testing.assert_allclose(found.by_position_se, of_streams_BxT.std(0, ddof=1) / math.sqrt(2), rtol=1e-3)


def test_english_is_reported_by_source(make_config: Any) -> None:
    config = make_config("elman", **{"data.corpus": "english", "train.context_length": 64})
    text, _, program = prepared(config)
    found = evaluate(config, text.shard("test"), "test", program.score, program.init().params, None, 64)
    assert set(found.by_source) == {"shakespeare", "milton", "kjv"}


def test_bits_per_byte_of_bytes() -> None:
    assert bits_per_byte(math.log(2) * 3, tokens=100, n_bytes=100) == pytest.approx(3.0)
    assert bits_per_byte(math.log(2) * 3, tokens=100, n_bytes=300) == pytest.approx(1.0)


@pytest.mark.parametrize("tokenizer", ["words-3", "words-20", "words", "chars", "bytes", "bpe-300"])
def test_no_vocabulary_makes_text_cheaper_than_it_is(tokenizer: str, make_config: Any, tmp_path: Any) -> None:
    """Of random letters nobody can know less than log2 26 bits; held out are other words, in other letters."""
    rng = np.random.default_rng(0)
    letters = [bytes(row).decode() for row in rng.integers(97, 123, (6000, 7), np.uint8)]
    lines = [" ".join(letters[i : i + 10]) for i in range(0, 6000, 10)]
    (tmp_path / "t.txt").write_text("\n".join(lines[:540]) + "\n" + "\n".join(lines[540:]).upper() + "\n")
    config = make_config("window", **{"data.corpus": str(tmp_path / "t.txt"), "data.tokenizer": tokenizer})
    text, _, program = prepared(config)
    params = jax.tree.map(jnp.zeros_like, program.init().params)
    shard = text.shard("validation")
    found = evaluate(config, shard, "validation", program.score, params, None, 8)
    assert found.bits_per_byte > 7 / 8 * math.log2(26)
    knows_all = tokenizer in ("bytes", "bpe-300")
    assert (found.unknown == 0) == knows_all == ("<unk>" not in found.summary())


def test_too_short_a_split_is_told(make_config: Any, tmp_path: Any) -> None:
    path = tmp_path / "tiny.txt"
    path.write_text("ab\n" * 60)
    config = make_config("lstm", **{"data.corpus": str(path), "data.batching": "streams", "train.batch_size": 8})
    text, _, program = prepared(config)
    with pytest.raises(UserError, match=r"too few for 8 streams of context_length 16"):
        evaluate(config, text.shard("validation"), "validation", program.score, program.init().params,
                 program.zero_carry(), 1)  # fmt: skip
