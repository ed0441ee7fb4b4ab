"""Trained parameters in the files of other programs: safetensors for every family, or a folder for `transformers`.

A scaled embedding, and the factor on queries of muP, become part of the matrices that they multiply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqjax.config import Config, canonical_json, run_id
from seqjax.data import hf_tokenizer
from seqjax.errors import UserError
from seqjax.families import Transformer
from seqjax.host import disk, safetensors
from seqjax.trained.opened import OpenRun
from seqjax.trained.transformers_form import GPT2, LLAMA, form_of
from seqjax.training.start import named

Arrays = dict[str, np.ndarray]
END_OF_TEXT = "<|endoftext|>"


def export_safetensors(run: OpenRun, path: Path) -> None:
    """Write the parameters of a run of any family and task under their own names, with its config as metadata.

    A name is the path in ``run.params``, joined by dots. Metadata: "format" seqjax, "run_id", "step", "config" (JSON).
    """
    facts = {"format": "seqjax", "run_id": run_id(run.config), "step": str(run.step)}
    with disk.storage_errors(path):
        safetensors.write(path, named(run.params), {**facts, "config": canonical_json(run.config)})


def export_transformers(run: OpenRun, folder: Path) -> list[str]:
    """Write a folder that `transformers` loads: ``config.json``, ``model.safetensors`` and the tokenizer.

    Returns:
        Lines about what it does not hold.
    Raises:
        UserError: no class of `transformers` computes the same.
    """
    if not isinstance(run.config, Config):
        raise UserError(f"{run.folder}: is no run on text, so `transformers` has no class for it; use --to safetensors")
    model, tokenizer = run.config.model, run.tokenizer
    context = run.config.train.context_length
    config = config_to(model, tokenizer.vocab_size, context, tokenizer.end_of_text)
    arrays = arrays_to(model, run.params)
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        disk.write_json(folder / "config.json", config)
        safetensors.write(folder / "model.safetensors", arrays, {"format": "pt"})
        written = hf_tokenizer.to_json(tokenizer)
        if written is None:
            return [f"the tokenizer '{tokenizer.name}' drops blanks, which no tokenizer.json does: it is left out"]
        disk.write_atomically(folder / "tokenizer.json", json.dumps(written, ensure_ascii=False) + "\n")
        special = {} if tokenizer.end_of_text is None else dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)
        disk.write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, **special},
        )
    return []


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
