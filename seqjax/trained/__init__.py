"""Trained runs: opened, sampled, looked into, measured by position."""
