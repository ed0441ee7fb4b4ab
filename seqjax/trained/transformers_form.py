"""Which class of the library `transformers` computes the same as a Transformer of this package, and its names.

| positions | norm      | mlp        | qk_norm | bias          | class              |
|-----------|-----------|------------|---------|---------------|--------------------|
| learned   | layernorm | gelu, relu | false   | true or false | GPT2LMHeadModel    |
| rotary    | rmsnorm   | swiglu     | false   | true or false | LlamaForCausalLM   |
| rotary    | rmsnorm   | swiglu     | true    | false         | Qwen3ForCausalLM   |

All have the norm before the sub-layers, residual connections, attention and an MLP. Llama and Qwen3 may have fewer
heads of keys and values than of queries (`kv_heads`), heads of any width (`head_width`) and any `rotary_base`. Other
forms have no class there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqjax.errors import UserError
from seqjax.families import Transformer


@dataclass(frozen=True)
class Form:
    """A class of `transformers`: its names of arrays, each with ours that lie in it side by side.

    Attributes:
        top: arrays outside of the blocks; block: arrays of a block, after `prefix` and its number.
        transposed: its matrices are [outputs, inputs]; ours are [inputs, outputs].
    """

    architecture: str
    model_type: str
    prefix: str
    transposed: bool
    top: dict[str, tuple[str, ...]]
    block: dict[str, tuple[str, ...]]


GPT2 = Form(
    "GPT2LMHeadModel",
    "gpt2",
    "transformer.h.",
    False,
    {
        "transformer.wte.weight": ("embedding",),
        "transformer.wpe.weight": ("positions",),
        "transformer.ln_f.weight": ("final_norm.gain",),
        "transformer.ln_f.bias": ("final_norm.bias",),
    },
    {
        "ln_1.weight": ("attention_norm.gain",),
        "ln_1.bias": ("attention_norm.bias",),
        "attn.c_attn.weight": ("W_q", "W_k", "W_v"),
        "attn.c_attn.bias": ("b_q", "b_k", "b_v"),
        "attn.c_proj.weight": ("W_o",),
        "attn.c_proj.bias": ("b_o",),
        "ln_2.weight": ("mlp_norm.gain",),
        "ln_2.bias": ("mlp_norm.bias",),
        "mlp.c_fc.weight": ("W_in",),
        "mlp.c_fc.bias": ("b_in",),
        "mlp.c_proj.weight": ("W_out",),
        "mlp.c_proj.bias": ("b_out",),
    },
)
_LINEAR = {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o"}
_LINEAR |= {"mlp.gate_proj": "gate", "mlp.up_proj": "in", "mlp.down_proj": "out"}
LLAMA = Form(
    "LlamaForCausalLM",
    "llama",
    "model.layers.",
    True,
    {"model.embed_tokens.weight": ("embedding",), "model.norm.weight": ("final_norm.gain",)},
    {
        "input_layernorm.weight": ("attention_norm.gain",),
        "post_attention_layernorm.weight": ("mlp_norm.gain",),
        **{f"{theirs}.weight": (f"W_{ours}",) for theirs, ours in _LINEAR.items()},
        **{f"{theirs}.bias": (f"b_{ours}",) for theirs, ours in _LINEAR.items()},
    },
)
QWEN3 = Form(
    "Qwen3ForCausalLM",
    "qwen3",
    LLAMA.prefix,
    True,
    LLAMA.top,
    {**LLAMA.block, "self_attn.q_norm.weight": ("q_gain",), "self_attn.k_norm.weight": ("k_gain",)},
)
FORMS = (GPT2, LLAMA, QWEN3)


def form_of(model: Any) -> Form:
    """The class that computes the same as a model.

    Raises:
        UserError: none does.
    """
    name = "--to hf"
    if model.family != Transformer.family:  # a user's own family may derive from it
        raise UserError(f"{name}: `transformers` has no class for the family '{model.family}'; use --to safetensors")
    wanted = {"norm_position": "before", "residual": True, "attention": True}
    for field, value in wanted.items():
        if getattr(model, field) != value:
            raise UserError(f"{name}: model.{field} {_said(model, field)}: no class has it; use --to safetensors")
    parts, usual = (model.positions, model.norm), model.n_heads * model.d_head == model.d_model
    if (
        parts == ("learned", "layernorm")
        and usual
        and model.mlp in ("gelu", "relu")
        and not model.qk_norm
        and model.n_layers
    ):
        return GPT2
    if parts == ("rotary", "rmsnorm") and model.mlp == "swiglu" and model.n_layers:
        if model.qk_norm and model.bias:
            raise UserError(
                f"{name}: model.qk_norm true: only Qwen3ForCausalLM has it, and its MLP has no biases; train with "
                "--model.bias false, or use --to safetensors"
            )
        return QWEN3 if model.qk_norm else LLAMA
    told = ", ".join(
        f"{field} {_said(model, field)}" for field in ("positions", "norm", "mlp", "qk_norm", "n_layers", "head_width")
    )
    raise UserError(
        f"{name}: no class has {told}; allowed: learned, layernorm, gelu or relu (GPT2LMHeadModel); rotary, rmsnorm, "
        "swiglu (LlamaForCausalLM; with qk_norm Qwen3ForCausalLM). Use --to safetensors"
    )


def _said(model: Any, field: str) -> str:
    value = getattr(model, field)
    return str(value).lower() if isinstance(value, bool) else str(value)
