"""BLEU of translations, by sacrebleu."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from seqjax.errors import UserError
from seqjax.host.optional import need


def bleu(answers: Sequence[str], references: Sequence[str], resamples: int = 1000) -> dict[str, Any]:
    """BLEU of sacrebleu (Post 2018): lower case, 13a tokens, with its 95 % interval over sentences.

    Raises:
        UserError: sacrebleu is not installed, or the counts differ.
    """
    if len(answers) != len(references):
        raise UserError(f"{len(answers):,} answers for {len(references):,} references")
    metric = need_sacrebleu()(lowercase=True)
    score = metric.corpus_score(list(answers), [list(references)], n_bootstrap=resamples)
    half = float(getattr(score, "_ci", math.nan))
    known = half if math.isfinite(half) else None  # for one sentence it is not finite
    return {"bleu": float(score.score), "bleu_95": known, "signature": str(metric.get_signature())}


def need_sacrebleu() -> Any:
    """The class of the metric. Raises UserError if sacrebleu is not installed."""
    return need("sacrebleu", "BLEU").BLEU
