"""The recurrent models of the benchmark as one would write them with Flax alone: `nn.RNN` over its own cells."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from seqjax.config import Config

CELLS = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


class Recurrent(nn.Module):
    """Embedding, stacked `nn.RNN`, readout."""

    family: str
    d_model: int
    n_layers: int
    vocab_size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        x_BxTxD = nn.Embed(self.vocab_size, self.d_model, dtype=self.dtype)(tokens_BxT)
        for _ in range(self.n_layers):
            # SimpleCell alone returns its state in `dtype`, and so it must begin
            state = jnp.zeros((len(tokens_BxT), self.d_model), self.dtype) if self.family == "elman" else None
            cell = CELLS[self.family](self.d_model, dtype=self.dtype)
            x_BxTxD = nn.RNN(cell)(x_BxTxD, initial_carry=state)
        return nn.Dense(self.vocab_size, dtype=self.dtype)(x_BxTxD).astype("float32")


class FlaxSystem:
    """The whole train step: forward, backward, clip, AdamW, jitted, the state donated."""

    def __init__(self, config: Config, vocab_size: int, tokens_BxT1: Any) -> None:
        family, dtype = config.model, config.train.compute_dtype
        model = Recurrent(family.family, family.d_model, family.n_layers, vocab_size, dtype)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b1=0.9, b2=0.99, weight_decay=0.0))
        self.tokens = jnp.asarray(tokens_BxT1)
        params = model.init(jax.random.key(0), self.tokens[:, :-1])
        self.state = params, optimizer.init(params)

        @partial(jax.jit, donate_argnums=0)
        def step(state: Any, tokens_BxT1: jax.Array) -> tuple[Any, jax.Array]:
            def loss(params: Any) -> jax.Array:
                logits = model.apply(params, tokens_BxT1[:, :-1])
                return optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BxT1[:, 1:]).mean()

            params, opt_state = state
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        self.compiled = step.lower(self.state, self.tokens).compile()

    def run(self, steps: int) -> float:
        """So many steps; the last loss."""
        for _ in range(steps):
            self.state, loss = self.compiled(self.state, self.tokens)
        return float(jax.block_until_ready(loss))

    def memory(self) -> int:
        """Bytes of the program's temporary arrays."""
        return self.compiled.memory_analysis().temp_size_in_bytes
