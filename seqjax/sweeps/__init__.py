"""Grids of runs: planning, training in parallel, recovery, and the run table."""
