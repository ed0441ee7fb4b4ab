"""A model of the library `transformers` as a run folder, to be evaluated, sampled and fine-tuned as a run of ours.

Only safetensors are read: no file that could hold code is opened.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import runs
from seqjax.config import Config, DataConfig, EvaluationConfig, TrainConfig, run_id
from seqjax.data import hf_tokenizer, load_corpus
from seqjax.data.kept import keep_tokenizer
from seqjax.data.tokenizers import Tokenizer
from seqjax.errors import UserError
from seqjax.families import Transformer
from seqjax.host import disk, safetensors
from seqjax.host.streams import tell_note
from seqjax.layers.rotary import ROTARY_BASE
from seqjax.models import count_parameters
from seqjax.trained.opened import OpenRun, open_run
from seqjax.trained.transformers_form import FORMS, GPT2, LLAMA, QWEN3, Form, form_of
from seqjax.training.start import encoded, write_start

Arrays = dict[str, np.ndarray]


def import_transformers(source: Path, place: Path, data: DataConfig, windows: int, context: int | None) -> Path:
    """Make a run folder with the status "imported" from a folder of `transformers`; return its path.

    Args:
        place: the parent of the new folder, which is named by its run id.
        data: the text to evaluate on. It is read with the model's tokenizer.
        windows: number of held-out windows of an evaluation.
        context: T of these windows; None: the model's.
    Raises:
        UserError: a file or the text is missing, or the model is not one of ours.
    """
    load_corpus(data.corpus)  # raises before there is a folder
    saved = disk.read_json(source / "config.json") if (source / "config.json").is_file() else None
    if saved is None:
        raise UserError(f"{source}: has no config.json, so it is no folder of `transformers`")
    model, vocab_size, longest = model_from(saved, str(source / "config.json"))
    tokenizer = _tokenizer(source, vocab_size)
    if tokenizer.vocab_size != vocab_size:
        raise UserError(f"{source}: its tokenizer has {tokenizer.vocab_size:,} tokens, its model {vocab_size:,}")
    if (context := context or longest) > longest:
        raise UserError(f"{source}: reads at most {longest} tokens of context; --context {context} is too many")
    params = params_from(model, _arrays(source), str(source))
    if "positions" in params:
        params["positions"] = params["positions"][:context]
    _check_shapes(params, vocab_size, model.d_model, source)
    start, content = encoded(_plain(source.resolve().name), params, {"tokenizer_sha256": tokenizer.sha256})
    config = Config(
        model=model,
        data=dataclasses.replace(data, tokenizer=tokenizer.name),
        train=TrainConfig(steps=1, context_length=context, start=start),
        evaluation=EvaluationConfig(windows=windows, final_windows=windows),
    )
    folder = place / run_id(config)
    runs.open_run(folder, config)
    keep_tokenizer(folder, tokenizer)
    write_start(folder, content)
    counts = count_parameters(model, vocab_size, context)
    before = runs.read_result(folder) or {}  # an evaluation stays until there is another one
    disk.write_json(folder / "result.json", before | _result(config, counts))
    return folder


def evaluate_import(folder: Path) -> OpenRun:
    """Evaluate an imported model on its held-out text, and write that into its result."""
    run = open_run(folder)
    found, digests = run.evaluate("validation"), {"corpus_sha256": run.data.corpus.sha256}
    digests["tokenizer_sha256"] = run.tokenizer.sha256
    runs.bind_data(folder, digests, run_id(run.config))
    result = runs.read_result(folder) | digests | {"validation": disk.finite(vars(found))}
    disk.write_json(folder / "result.json", result)
    return run


def _result(config: Config, counts: dict[str, int]) -> dict[str, Any]:
    ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"run_id": run_id(config), "status": "imported", "steps": 0, "parameters": counts, "ended": ended}


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def _tokenizer(source: Path, vocab_size: int) -> Tokenizer:
    path = source / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{source}: has no tokenizer.json; `transformers` writes one: AutoTokenizer, save_pretrained")
    saved = disk.read_json(path)
    if hf_tokenizer.normalizes(saved):
        tell_note(f"{path}: writes text in Unicode's form NFC first; here it is read as it is")
    return hf_tokenizer.from_json(saved, str(path), vocab_size)


def _arrays(source: Path) -> dict[str, np.ndarray]:
    """The arrays of ``model.safetensors``, or of all files that its index names."""
    index = source / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(map(str, disk.read_json(index)["weight_map"].values())))
        if outside := next((name for name in names if Path(name).name != name), None):
            raise UserError(f"{index}: names {outside}, which is not in its folder")
        files = [source / name for name in names]
    else:
        files = [source / "model.safetensors"]
    if not files[0].is_file():
        others = [path.name for path in source.glob("*.bin")]
        hint = f"; {others[0]} is a pickle, which is not opened: save it as safetensors" if others else ""
        raise UserError(f"{source}: has no model.safetensors{hint}")
    return {name: array for path in files for name, array in safetensors.read(path)[0].items()}


def _check_shapes(params: Any, vocab_size: int, d_model: int, source: Path) -> None:
    if params["embedding"].shape != (vocab_size, d_model):
        there = list(params["embedding"].shape)
        raise UserError(f"{source}: its embedding is {there}; config.json says [{vocab_size}, {d_model}]")


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
