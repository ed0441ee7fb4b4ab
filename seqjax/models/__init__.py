"""Models made of families: Flax modules that hold parameters and compose pure functions."""

from __future__ import annotations

from seqjax.models.accounting import count_parameters, flops_per_token, group_of, state_size
from seqjax.models.language_model import LanguageModel, build_model

__all__ = ["LanguageModel", "build_model", "count_parameters", "flops_per_token", "group_of", "state_size"]
