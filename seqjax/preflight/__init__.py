"""Programs compiled for accelerators that are not here: do they fit, do they share their batch, how fast at most."""
