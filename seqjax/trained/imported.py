"""A model of the library `transformers` as a run folder, to be evaluated, sampled and fine-tuned as a run of ours.

Only safetensors are read: no file that could hold code is opened.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import runs
from seqjax.config import Config, DataConfig, EvaluationConfig, TrainConfig, run_id
from seqjax.data import hf_tokenizer
from seqjax.data.kept import keep_tokenizer
from seqjax.data.tokenizers import Tokenizer
from seqjax.errors import UserError
from seqjax.host import disk, safetensors
from seqjax.host.streams import tell_note
from seqjax.models import count_parameters
from seqjax.trained.opened import OpenRun, open_run
from seqjax.trained.transformers_form import model_from, params_from
from seqjax.training.start import encoded, write_start


def import_transformers(source: Path, place: Path, data: DataConfig, windows: int, context: int | None) -> Path:
    """Make a run folder with the status "imported" from a folder of `transformers`; return its path.

    Args:
        place: the parent of the new folder, which is named by its run id.
        data: the text to evaluate on. Its tokenizer is that of the model.
        windows: number of held-out windows of an evaluation.
        context: T of these windows; None: that of the model.
    Raises:
        UserError: a file is missing, or the model is not one of ours.
    """
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
    disk.write_json(folder / "result.json", _result(config, counts))
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
