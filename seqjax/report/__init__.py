"""Figures: what the fits say, as people look at it first."""
