"""Transformers of this package in the forms of the library `transformers`, and back.

| positions | norm      | mlp        | qk_norm | bias          | class              |
|-----------|-----------|------------|---------|---------------|--------------------|
| learned   | layernorm | gelu, relu | false   | true or false | GPT2LMHeadModel    |
| rotary    | rmsnorm   | swiglu     | false   | true or false | LlamaForCausalLM   |
| rotary    | rmsnorm   | swiglu     | true    | false         | Qwen3ForCausalLM   |

All have the norm before the sub-layers, residual connections, attention and an MLP. Llama and Qwen3 may have fewer
heads of keys and values than of queries (`kv_heads`), heads of any width (`head_width`) and any `rotary_base`. Other
forms have no class there.
A scaled embedding, and the factor on queries of muP, become part of the matrices that they multiply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqjax.errors import UserError
from seqjax.families import Transformer
from seqjax.layers.rotary import ROTARY_BASE

Arrays = dict[str, np.ndarray]


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
    if not isinstance(model, Transformer):
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


def config_to(model: Transformer, vocab_size: int, context: int, end_of_text: int | None) -> dict[str, Any]:
    """The contents of ``config.json``."""
    form = form_of(model)
    shared = {
        "architectures": [form.architecture],
        "model_type": form.model_type,
        "vocab_size": vocab_size,
        "tie_word_embeddings": stays_tied(model),
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }
    if form is GPT2:
        return shared | {
            "n_positions": context,
            "n_embd": model.d_model,
            "n_layer": model.n_layers,
            "n_head": model.n_heads,
            "n_inner": model.feed_forward_width,
            "activation_function": "gelu_new" if model.mlp == "gelu" else "relu",
            "layer_norm_epsilon": model.norm_epsilon,
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": 0.0,
        }
    return shared | {
        "max_position_embeddings": context,
        "hidden_size": model.d_model,
        "intermediate_size": model.feed_forward_width,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.kv_heads or model.n_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rotary_base,
        "attention_bias": model.bias,
        "attention_dropout": 0.0,
        **({"mlp_bias": model.bias} if form is LLAMA else {}),
    }


def stays_tied(model: Transformer) -> bool:
    """Whether the readout is the embedding there too: not where ours has a factor on the embedding."""
    return model.tied_embeddings and model.embedding_scale == 1.0


def arrays_to(model: Transformer, params: Mapping[str, Any]) -> Arrays:
    """Parameters under the names of `transformers`, float32."""
    form = form_of(model)
    ours: Arrays = {"embedding": np.asarray(params["embedding"]) * np.float32(model.embedding_scale)}
    ours |= {f"final_norm.{name}": np.asarray(array) for name, array in params["final_norm"].items()}
    if "positions" in params:
        ours["positions"] = np.asarray(params["positions"])
    if form is GPT2 and not model.bias:
        ours["final_norm.bias"] = np.zeros_like(ours["final_norm.gain"])
    found = {theirs: ours[name] for theirs, (name,) in form.top.items()}
    if not stays_tied(model):
        W_DxV = params["embedding"].T if model.tied_embeddings else params["readout"]
        found["lm_head.weight"] = np.asarray(W_DxV).T
    for layer in range(model.n_layers):
        flat = _flat(model, params["layers"], layer)
        if form is GPT2 and not model.bias:  # its biases are zero
            widths = {name: array.shape[-1] for name, array in flat.items() if name.startswith("W_")}
            flat |= {name.replace("W_", "b_"): np.zeros(width, np.float32) for name, width in widths.items()}
            flat |= {f"{name}_norm.bias": np.zeros(model.d_model, np.float32) for name in ("attention", "mlp")}
        for theirs, names in form.block.items():
            if names[0] in flat:
                joined = np.concatenate([flat[name] for name in names], axis=-1)
                found[f"{form.prefix}{layer}.{theirs}"] = joined.T if form.transposed else joined
    return found


def _flat(model: Transformer, layers: Mapping[str, Any], layer: int) -> Arrays:
    """The arrays of one block by plain names, matrices as [inputs, outputs], queries with muP's factor."""
    groups = {group: {name: np.asarray(x[layer]) for name, x in part.items()} for group, part in layers.items()}
    attention = groups.pop("attention")
    found = {**groups.pop("mlp"), "W_o": attention["W_o"].reshape(-1, model.d_model)}
    found |= {name: attention[name] for name in ("b_o", "q_gain", "k_gain") if name in attention}
    for name in ("W", "b") if model.bias else ("W",):
        if model.shared_keys is None:
            q, k, v = np.moveaxis(attention[f"{name}_qkv"], -3, 0)
        else:
            q, (k, v) = attention[f"{name}_q"], np.moveaxis(attention[f"{name}_kv"], -3, 0)
        parts = {"q": q, "k": k, "v": v}
        found |= {f"{name}_{letter}": x.reshape(*x.shape[:-2], -1) for letter, x in parts.items()}
    scaled = ("q_gain",) if "q_gain" in found else ("W_q", "b_q")
    found |= {name: found[name] * np.float32(model.widening**-0.5) for name in scaled if name in found}
    return found | {f"{group}.{name}": x for group, part in groups.items() for name, x in part.items()}


def model_from(config: Mapping[str, Any], source: str) -> tuple[Transformer, int, int]:
    """Our model for a ``config.json`` of `transformers`, the size of its vocabulary, and its context.

    Raises:
        UserError: another class, or values that our models do not have; it names the first.
    """
    form = next((form for form in FORMS if form.model_type == config.get("model_type")), None)
    if form is None:
        allowed = ", ".join(f.model_type for f in FORMS)
        raise UserError(f"{source}: model_type {config.get('model_type')!r} is not one of ours; allowed: {allowed}")
    try:
        return (_gpt2 if form is GPT2 else _llama)(form, config, source)
    except KeyError as error:
        raise UserError(f"{source}: {error.args[0]}: missing") from None


def _gpt2(form: Form, config: Mapping[str, Any], source: str) -> tuple[Transformer, int, int]:
    activations = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
    activation = config.get("activation_function", "gelu_new")
    _require(config, source, {
        "activation_function": (activation, list(activations)),
        "scale_attn_weights": (config.get("scale_attn_weights", True), [True]),
        "scale_attn_by_inverse_layer_idx": (config.get("scale_attn_by_inverse_layer_idx", False), [False]),
    })  # fmt: skip
    d_model = config["n_embd"]
    model = Transformer(
        d_model=d_model,
        n_layers=config["n_layer"],
        n_heads=config["n_head"],
        d_ff=config.get("n_inner") or 4 * d_model,
        mlp=activations[activation],
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        tied_embeddings=config.get("tie_word_embeddings", True),
    )
    return model, config["vocab_size"], config["n_positions"]


def _llama(form: Form, config: Mapping[str, Any], source: str) -> tuple[Transformer, int, int]:
    d_model, heads = config["hidden_size"], config["num_attention_heads"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    bias, kv_heads = config.get("attention_bias", False), config.get("num_key_value_heads") or heads
    head_width = config.get("head_dim") or d_model // heads
    _require(config, source, {
        "hidden_act": (config.get("hidden_act", "silu"), ["silu"]),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), ["default"]),
        "mlp_bias": (config.get("mlp_bias", False), [bias] if form is LLAMA else [False]),
        "attention_bias": (bias, [True, False] if form is LLAMA else [False]),
        "use_sliding_window": (config.get("use_sliding_window", False), [False]),
    })  # fmt: skip
    model = Transformer(
        d_model=d_model,
        n_layers=config["num_hidden_layers"],
        n_heads=heads,
        head_width=None if head_width * heads == d_model else head_width,
        kv_heads=None if kv_heads == heads else kv_heads,
        d_ff=config["intermediate_size"],
        mlp="swiglu",
        norm="rmsnorm",
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        positions="rotary",
        rotary_base=rope.get("rope_theta", config.get("rope_theta", ROTARY_BASE)),
        bias=bias,
        qk_norm=form is QWEN3,
        tied_embeddings=config.get("tie_word_embeddings", False),
    )
    return model, config["vocab_size"], config["max_position_embeddings"]


def _require(config: Mapping[str, Any], source: str, values: Mapping[str, tuple[Any, list[Any]]]) -> None:
    for key, (value, allowed) in values.items():
        if value not in allowed:
            said = ", ".join(map(str, allowed))
            raise UserError(f"{source}: {key} {value}: our models do not have it; allowed: {said}")


def params_from(model: Transformer, arrays: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """Our parameters from arrays under the names of `transformers`.

    Raises:
        UserError: an array is missing, or there is one more.
    """
    form, left = form_of(model), _bare(arrays)

    def take(name: str) -> np.ndarray:
        if name.removeprefix("transformer.") not in left:
            raise UserError(f"{source}: has no array {name}")
        return np.asarray(left.pop(name.removeprefix("transformer.")), np.float32)

    top = {ours: take(theirs) for theirs, (ours,) in form.top.items()}
    blocks = []
    for layer in range(model.n_layers):
        flat: Arrays = {}
        for theirs, names in form.block.items():
            if names[0].startswith("b_") and not model.bias:
                continue
            array = take(f"{form.prefix}{layer}.{theirs}")
            flat |= zip(names, np.split(array.T if form.transposed else array, len(names), axis=-1), strict=True)
        blocks.append(_block(model, flat))
    params: dict[str, Any] = {"embedding": top.pop("embedding"), "layers": _stacked(blocks)}
    if "positions" in top:
        params["positions"] = top.pop("positions")
    params["final_norm"] = {name.partition(".")[2]: array for name, array in top.items()}
    if model.tied_embeddings:
        left.pop("lm_head.weight", None)  # the embedding once more
    else:
        params["readout"] = np.ascontiguousarray(take("lm_head.weight").T)
    if left:
        raise UserError(f"{source}: the array {min(left)} has no place in the form of {form.architecture}")
    return params


def _bare(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays without GPT-2's masks, and without the prefix that the published GPT-2 leaves out."""
    masks = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    return {name.removeprefix("transformer."): x for name, x in arrays.items() if not name.endswith(masks)}


def _block(model: Transformer, flat: Arrays) -> dict[str, Arrays]:
    heads = (-1, model.d_head)
    attention = {"W_o": flat.pop("W_o").reshape(*heads, model.d_model)}
    for name in ("W", "b") if model.bias else ("W",):
        q, *kv = (flat.pop(f"{name}_{x}") for x in "qkv")
        q, *kv = (x.reshape(*x.shape[:-1], *heads) for x in (q, *kv))
        if model.shared_keys is None:
            attention[f"{name}_qkv"] = np.stack([q, *kv], axis=-3)
        else:
            attention |= {f"{name}_q": q, f"{name}_kv": np.stack(kv, axis=-3)}
    attention |= {"b_o": flat.pop("b_o")} if model.bias else {}
    attention |= {name: flat.pop(name) for name in ("q_gain", "k_gain") if name in flat}
    found: dict[str, Arrays] = {"attention": attention, "mlp": {}}
    for name, array in flat.items():
        group, dot, field = name.partition(".")
        found.setdefault(group if dot else "mlp", {})[field if dot else name] = array
    return found


def _stacked(blocks: list[dict[str, Arrays]]) -> dict[str, Arrays]:
    """The blocks as one, every array with a leading axis L."""
    return {
        group: {name: np.stack([block[group][name] for block in blocks]) for name in part}
        for group, part in blocks[0].items()
    }
