"""Names of columns of a run table that laws know. Nothing here needs pandas."""

from __future__ import annotations

RATE, SEED = "optimizer.learning_rate", "train.seed"
PLACES = ("train.mesh", "train.remat")
"""Where and in how much memory a run was computed: :data:`seqjax.config.identity.PLACED`, and the parts of a mesh."""
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


def is_of_design(column: str) -> bool:
    """Whether runs that differ in this column are of different models: all of the config but rate, seed and place."""
    return "." in column and column not in (RATE, SEED) and not column.startswith(PLACES)
