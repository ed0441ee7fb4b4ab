"""What the families share: products, norms, attention, readouts, heads; each a pure function of arrays."""
