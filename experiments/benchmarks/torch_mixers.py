"""The mixers of the families of today in torch code that others wrote, and the language model of blocks around them.

    minGRU, minLSTM     minGRU-pytorch
    RG-LRU, Mamba-2     transformers (RecurrentGemma, Mamba-2), without the kernels that need a GPU
    Gated DeltaNet      transformers (Qwen3-Next), so too
    mLSTM, sLSTM        xlstm, its authors' code, as it is without a GPU

The tests compare seqjax's mixers with the same code (tests/models/test_stacked_torch.py, test_matrix_families.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BIASED = ("rg_lru", "mamba2", "mlstm", "slstm")
"""Families whose torch code has biases."""


class SwiGLU(nn.Module):
    """W_out (silu(W_gate x) * W_in x)."""

    def __init__(self, d_model: int, d_ff: int, bias: bool) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(d_model, 2 * d_ff, bias=bias), nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Stacked(nn.Module):
    """Embedding, residual blocks of a mixer and a SwiGLU after RMSNorms, a last norm, readout: `block: common`."""

    def __init__(self, model: Any, vocab_size: int, context: int) -> None:
        super().__init__()
        width, count = model.d_model, model.n_layers
        self.embedding, self.readout = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size, bias=False)
        self.mixers = nn.ModuleList(mixer(model, context) for _ in range(count))
        self.mlps = nn.ModuleList(SwiGLU(width, model.feed_forward_width, model.has_bias) for _ in range(count))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2 * count + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for number, (mix, mlp) in enumerate(zip(self.mixers, self.mlps, strict=True)):
            x = x + mix(self.norms[2 * number](x))
            x = x + mlp(self.norms[2 * number + 1](x))
        return self.readout(self.norms[-1](x))


class Recurrent(nn.Module):
    """RecurrentGemma's recurrent block, without a state from the call before."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        positions_1xT = torch.arange(x.shape[1])[None]
        return self.block(x, positions_1xT, None, use_cache=False)[0]


def mixer(model: Any, context: int) -> nn.Module:
    """The torch code of one mixer of a family of today."""
    return MIXERS[model.family](model, context)


def package_of(family: str) -> str | None:
    """The package that has the torch code of a family, under the name by which it is imported; None: there is none."""
    packages = {"mingru": "minGRU_pytorch", "minlstm": "minGRU_pytorch", "mlstm": "xlstm", "slstm": "xlstm"}
    return packages.get(family, "transformers") if family in MIXERS else None


def _minimal(name: str) -> Callable[[Any, int], nn.Module]:
    def build(model: Any, context: int) -> nn.Module:
        package = importlib.import_module(f"minGRU_pytorch.{name}")
        return getattr(package, name)(model.d_model, expansion_factor=model.state_width / model.d_model)

    return build


def _rg_lru(model: Any, context: int) -> nn.Module:
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    config = RecurrentGemmaConfig(
        hidden_size=model.d_model, lru_width=model.state_width, num_attention_heads=model.gate_blocks,
        conv1d_width=model.conv, num_hidden_layers=1, pad_token_id=None,
    )  # fmt: skip
    block = RecurrentGemmaRecurrentBlock(config, 0)
    for weights in block.rg_lru.parameters():  # the package leaves them empty
        nn.init.normal_(weights, std=0.1)
    return Recurrent(block)


def _mamba2(model: Any, context: int) -> nn.Module:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=model.d_model, state_size=model.d_state, num_heads=model.n_heads, head_dim=model.value_width,
        expand=2, n_groups=1, conv_kernel=4, chunk_size=64, use_bias=False, use_conv_bias=True, num_hidden_layers=1,
    )  # fmt: skip
    return Mamba2Mixer(config, 0)


def _gated_deltanet(model: Any, context: int) -> nn.Module:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=model.d_model, linear_num_value_heads=model.n_heads, linear_num_key_heads=model.n_heads,
        linear_key_head_dim=model.key_width, linear_value_head_dim=model.value_width, linear_conv_kernel_dim=4,
        num_hidden_layers=1,
    )  # fmt: skip
    return Qwen3NextGatedDeltaNet(config, 0)


def _mlstm(model: Any, context: int) -> nn.Module:
    from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig

    config = mLSTMLayerConfig(
        embedding_dim=model.d_model, num_heads=model.n_heads, context_length=context, round_proj_up_to_multiple_of=2
    )
    return mLSTMLayer(config)


def _slstm(model: Any, context: int) -> nn.Module:
    from xlstm.blocks.slstm.layer import sLSTMLayer, sLSTMLayerConfig

    return sLSTMLayer(
        sLSTMLayerConfig(embedding_dim=model.d_model, num_heads=model.n_heads, backend="vanilla", dtype="float32")
    )


MIXERS: dict[str, Callable[[Any, int], nn.Module]] = {
    "mingru": _minimal("minGRU"), "minlstm": _minimal("minLSTM"), "rg_lru": _rg_lru, "mamba2": _mamba2,
    "mlstm": _mlstm, "slstm": _slstm, "gated_deltanet": _gated_deltanet,
}  # fmt: skip
