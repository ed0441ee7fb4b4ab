"""Ways to start the runs of a sweep, on this machine or by Slurm."""

from collections.abc import Callable, Collection, Sequence

from seqjax.sweeps.programs import Unit
from seqjax.sweeps.view import View

NextUnits = Callable[[Collection[str], Collection[str]], list[Unit]]
"""(runs that were given up, other runs that are at work or waiting) -> units of the further runs that can start now."""

Launch = Callable[[NextUnits, View, Sequence[int]], tuple[str, ...] | None]
"""Trains units until there are no more. Returns the ids of runs that were given up; None: it has only submitted
them."""
