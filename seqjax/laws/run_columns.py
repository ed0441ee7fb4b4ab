"""Names of columns of a run table that laws know. Nothing here needs pandas."""

from __future__ import annotations

RATE, SEED = "optimizer.learning_rate", "train.seed"
SHORT = {
    "N": "params_non_embedding",
    "D": "tokens",
    "lr": RATE,
    "rate": RATE,
    "batch": "train.batch_size",
    "family": "model.family",
    "layers": "model.n_layers",
    "corpus": "data.corpus",
    "tokenizer": "data.tokenizer",
    "batching": "data.batching",
}
"""Short names of columns."""
