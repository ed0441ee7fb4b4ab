"""Language models: Flax modules that hold parameters and compose pure functions."""

from __future__ import annotations

from seqjax.models.accounting import count_parameters, flops_per_token, group_of
from seqjax.models.build import build_model

__all__ = ["build_model", "count_parameters", "flops_per_token", "group_of"]
