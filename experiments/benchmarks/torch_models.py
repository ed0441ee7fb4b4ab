"""The models of the benchmark as one would write them in torch: its own modules, its fused attention and AdamW."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from seqjax.config import Config

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution")
"""What torch's profiler calls matrix products."""
RECURRENT = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Embedding, stacked recurrent layers, readout."""

    def __init__(self, family: str, d_model: int, n_layers: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding, self.readout = nn.Embedding(vocab_size, d_model), nn.Linear(d_model, vocab_size)
        self.layers = RECURRENT[family](d_model, d_model, n_layers, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.layers(self.embedding(tokens))[0])


class Block(nn.Module):
    """Pre-norm block of GPT-2."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU(approximate="tanh"), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1)).transpose(1, 3).unbind(2)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """GPT-2 with an untied readout."""

    def __init__(self, d_model: int, n_layers: int, n_heads: int, vocab_size: int, context_length: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context_length, d_model)
        self.blocks = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)))
        self.norm, self.readout = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.readout(self.norm(self.blocks(x)))


def make_torch(config: Config, vocab_size: int) -> nn.Module:
    """The model of a config."""
    model = config.model
    if model.family == "transformer":
        return Transformer(model.d_model, model.n_layers, model.n_heads, vocab_size, config.train.context_length)
    if model.family not in RECURRENT:
        from torch_mixers import Stacked

        return Stacked(model, vocab_size, config.train.context_length)
    return Recurrent(model.family, model.d_model, model.n_layers, vocab_size)


class TorchSystem:
    """The whole train step: forward, backward, clip, AdamW.

    It runs on the GPU where JAX does. Parameters are float32 there too; products are in a narrower dtype by autocast,
    and float32 ones in TF32, as JAX's are by default.

    Args:
      dtype: of the products; None: the config's.
    """

    def __init__(
        self, config: Config, vocab_size: int, tokens_BxT1: np.ndarray, compiled: bool, dtype: str | None = None
    ) -> None:
        torch.manual_seed(0)
        self.device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        self.dtype = getattr(torch, dtype or config.train.compute_dtype)
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")
        model = make_torch(config, vocab_size).to(self.device)
        self.model = torch.compile(model) if compiled else model
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self.tokens = torch.from_numpy(tokens_BxT1.astype("int64")).to(self.device)

    def run(self, steps: int) -> float:
        """So many steps; the last loss."""
        for _ in range(steps):
            with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
                logits = self.model(self.tokens[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1).float(), self.tokens[:, 1:].flatten())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        return loss.item()

    def products(self) -> float:
        """The share of a step's time that matrix products take."""
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            self.run(1)
        seconds = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
        return sum(seconds.get(f"aten::{name}", 0.0) for name in PRODUCTS) / sum(seconds.values())

    def memory(self) -> int:
        """Most bytes that torch's allocator held in one step, beyond what it held before; 0 for none seen."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held_before = torch.cuda.memory_allocated()
            self.run(1)
            return torch.cuda.max_memory_allocated() - held_before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            self.run(1)
        with tempfile.TemporaryDirectory() as folder:
            trace.export_chrome_trace(f"{folder}/trace.json")
            events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
        memory = [event for event in events if event.get("name") == "[memory]"]
        held = [e["args"]["Total Allocated"] for e in sorted(memory, key=lambda event: event["ts"])]
        return max(held) - held[0] if held else 0
