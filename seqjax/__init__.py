"""How the loss of RNNs, LSTMs, GRUs and Transformers falls with parameters, tokens, compute and context."""

__version__ = "0.1.0"
