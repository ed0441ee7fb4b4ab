"""Layers that families share: products, norms, attention, readouts, heads."""
