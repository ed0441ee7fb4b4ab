"""Families against each other on the same held-out tokens: measured, judged, shown."""
