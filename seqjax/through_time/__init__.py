"""Recurrences over T time steps, forward and backward."""
