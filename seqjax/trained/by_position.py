"""Loss of a trained run at every position of its context, on chains of overlapping windows."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from seqjax import runs
from seqjax.data import gather_windows
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.numerics import pinned
from seqjax.trained.chains import Chains
from seqjax.trained.opened import open_run

FILE = "positions.npz"


@pinned()
def measure_positions(folder: Path, chains: Chains, batch_size: int = 32) -> None:
    """Evaluate the last checkpoint of a run and write ``positions.npz`` beside its result.

    The file holds ``loss_CxWxT`` and ``short_CxWxT`` (float32, nats per token, for the long and the short windows; T is
    at most the run's own context), the ``chains`` as JSON text, and the time when the run ``ended``. An existing file
    of the same chains and the same result is kept.

    Args:
        batch_size: windows of the whole context in one evaluation step; more for shorter windows.
    Raises:
        UserError: the run has not ended, its last checkpoint is not of its last step, another text than the run began
            with, or a text too short for the chains.
    """
    if read_positions(folder, chains) is not None:
        return
    result = runs.read_result(folder)
    if result is None:
        raise UserError(f"{folder}: the run has not ended")
    run = open_run(folder)
    config, tokens = run.config, run.data.shard("validation").tokens
    if run.step != result["steps"]:
        raise UserError(
            f"{folder}: its last whole checkpoint is of step {run.step}, not {result['steps']}; train it again"
        )

    def losses_of(starts_CxW: np.ndarray, length: int) -> np.ndarray:
        context = min(config.train.context_length, length)
        rows = min(starts_CxW.size, max(1, batch_size * chains.context // length))
        starts = np.concatenate([starts_CxW.ravel(), np.repeat(starts_CxW[-1, -1:], -starts_CxW.size % rows)])
        pieces = []
        for lot in starts.reshape(-1, rows):  # one compiled shape
            pieces.append(run.token_losses(gather_windows(tokens, lot, context)))
        return np.concatenate(pieces)[: starts_CxW.size].reshape(*starts_CxW.shape, context)

    buffer = io.BytesIO()
    np.savez(
        buffer,
        loss_CxWxT=losses_of(chains.starts(len(tokens)), chains.context),
        short_CxWxT=losses_of(chains.short_starts(len(tokens)), chains.short),
        chains=json.dumps(chains.as_fields()),
        ended=result["ended"],
    )
    with disk.storage_errors(folder):
        disk.write_bytes_atomically(folder / FILE, buffer.getvalue())


def read_positions(folder: Path, chains: Chains) -> tuple[np.ndarray, np.ndarray] | None:
    """``loss_CxWxT`` and ``short_CxWxT`` of a run, or None if they were not measured on these chains."""
    path, result = folder / FILE, runs.read_result(folder)
    if not path.is_file() or result is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            of = (str(saved["chains"]), str(saved["ended"]))
            asked = (json.dumps(chains.as_fields()), result["ended"])
            return (saved["loss_CxWxT"], saved["short_CxWxT"]) if of == asked else None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile):  # of an older version, or damaged: measure again
        return None
