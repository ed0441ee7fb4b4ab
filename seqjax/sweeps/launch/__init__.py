"""Ways to start the runs of a sweep, on this machine or by Slurm."""

from collections.abc import Callable, Sequence

from seqjax.sweeps.programs import Unit
from seqjax.sweeps.view import View

Launch = Callable[[Sequence[Unit], View, Sequence[int]], tuple[str, ...] | None]
"""Trains units until all have ended or are given up. Returns the ids of runs that were given up; None: it has only
submitted them."""
