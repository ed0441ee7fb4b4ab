"""Parameter counts in closed form, written out once more beside the code."""

from __future__ import annotations

import math

from seqjax.config import ModelConfig
from seqjax.families import Window


def matrices(model: ModelConfig) -> int:
    """N: Kaplan et al. 2020, table 1, for Transformers; G (D H + H H) for the layers of a recurrent model."""
    d, layers = model.d_model, model.n_layers
    if model.recurrent:
        h, gates = model.d_hidden or d, {"elman": 1, "lstm": 4, "gru": 3}[model.family]
        return gates * (d * h + h * h) + (layers - 1) * gates * 2 * h * h
    if isinstance(model, Window):
        return model.window * d * model.d_ff + (layers - 1) * model.d_ff**2
    swiglu = model.mlp == "swiglu"
    f = model.d_ff or (8 * math.ceil(8 * d / 3 / 8) if swiglu else 4 * d)
    return layers * (4 * d * d * model.attention + (3 if swiglu else 2) * d * f * (model.mlp != "none"))
