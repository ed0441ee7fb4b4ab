"""Tiny models compiled for accelerators that are not here. Each target is skipped where its compiler is absent."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from seqjax.config import Config
from seqjax.preflight.checks import Check, check
from seqjax.preflight.targets import target_named

pytestmark = pytest.mark.slow

ABSENT = {
    "h100": not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)),
    "v5e-4": not importlib.util.find_spec("libtpu"),
}
ABSENT["8xh100"] = ABSENT["h100"]
NEEDS = {"h100": "'seqjax[preflight]'", "8xh100": "'seqjax[preflight]'", "v5e-4": "'seqjax[tpu]'"}
SMALL = {"train.context_length": 48, "train.batch_size": 8, "evaluation.batch_size": 8, "data.tokenizer": "bpe-777"}


@pytest.fixture
def compiled(make_config: Callable[..., Config]) -> Callable[..., Check]:
    """``compiled(family, target, **changes)``: the check of a tiny model in bfloat16."""

    def compile_(family: str, target: str, **changes: object) -> Check:
        if ABSENT[target]:
            pytest.skip(f"the compiler for {target} is absent: pip install {NEEDS[target]}")
        config = make_config(family, **SMALL | {"train.compute_dtype": "bfloat16"} | changes)
        return check(config, target_named(target))

    return compile_


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("lstm", "h100"),
        ("transformer", "8xh100"),
        ("gated_deltanet", "h100"),
        ("lstm", "v5e-4"),
        ("transformer", "v5e-4"),
    ],
)
def test_a_tiny_model_fits_and_shares_its_batch(compiled: Callable[..., Check], family: str, target: str) -> None:
    length = 160 if family == "gated_deltanet" else 48  # longer than its pieces
    fused = {"model.attention_kernel": "fused"} if family == "transformer" else {}
    found = compiled(family, target, **{"train.context_length": length} | fused)
    assert found.fits and 1e5 < found.step.memory < 1e9
    assert found.scores is False, "an array of T x T in spite of a fused kernel"
    assert {one.kind for one in found.step.text.collectives} == (set() if target == "h100" else {"all-reduce"})
    assert found.step.shared == pytest.approx(1.0, abs=0.35)
    assert found.evaluation.shared == pytest.approx(1.0, abs=0.35)
    if family != "gated_deltanet":  # its pieces of 64 are filled up
        as_compiled = found.step.text.product_flops * found.target.devices / found.step.shared
        assert as_compiled == pytest.approx(found.step_flops, rel=0.35)
    if family == "lstm":
        assert found.step.text.turns >= 2 * 48 / 8


def test_a_run_that_does_not_fit_is_told(compiled: Callable[..., Check]) -> None:
    """A TPU's compiler refuses it, with the bytes that it would need."""
    found = compiled("lstm", "v5e-4", **{"train.batch_size": 4_000_000})
    assert not found.fits and found.step.text is None and 16 * 2**30 < found.step.memory < 2**50
