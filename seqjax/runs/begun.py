"""Whether a run has begun, and the end of a folder whose run never did."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from seqjax.errors import UserError
from seqjax.host.stopping import Interrupted
from seqjax.runs.folder import lock


def has_begun(folder: Path) -> bool:
    """Whether a run has taken steps that are kept: there are lines of metrics, or a checkpoint."""
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    return (metrics.is_file() and metrics.stat().st_size > 0) or (checkpoints.is_dir() and any(checkpoints.iterdir()))


@contextlib.contextmanager
def gone_unless_begun(folder: Path) -> Iterator[None]:
    """If the block fails, the run folder that it made goes again, unless its run has begun; and the empty ones above.

    A folder that was there before stays: it is of somebody else's plan. So does one whose run was asked to stop.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        yield
    except Interrupted:  # it was asked to stop and said how to go on
        raise
    except BaseException:
        if folder != there:
            with contextlib.suppress(UserError, OSError), lock(folder):
                if not has_begun(folder):
                    shutil.rmtree(folder)
                    for place in folder.parents[: folder.parents.index(there)]:
                        place.rmdir()
        raise
