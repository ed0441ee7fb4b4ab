"""Backward passes of cells, written out. They are optional: JAX differentiates a cell that has none."""
