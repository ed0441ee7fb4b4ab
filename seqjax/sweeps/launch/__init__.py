"""One module a way to start the runs of a sweep."""

from collections.abc import Callable, Sequence

from seqjax.sweeps.programs import Unit
from seqjax.sweeps.view import View

Launch = Callable[[Sequence[Unit], View, Sequence[int]], tuple[str, ...] | None]
"""Trains units until all have ended or are given up, and returns the run ids that were given up; None: it has left
them to others."""
