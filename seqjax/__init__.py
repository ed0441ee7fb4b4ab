"""How the loss of RNNs, LSTMs, GRUs and Transformers falls with parameters, tokens, compute and context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from seqjax.trained.opened import OpenRun

__version__ = "0.1.0"


def open(folder: str | Path, **how: Any) -> OpenRun:
    """Open a trained run: see :func:`seqjax.trained.opened.open_run`. JAX is imported at the first call."""
    from seqjax.trained.opened import open_run

    return open_run(folder, **how)
