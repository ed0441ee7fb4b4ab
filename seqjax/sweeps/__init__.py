"""Grids of runs: planned, trained many at once, survived, and gathered into a table."""
