"""Trained parameters in the files of other programs: safetensors for every family, or a folder for `transformers`."""

from __future__ import annotations

import json
from pathlib import Path

from seqjax.config import Config, canonical_json, run_id
from seqjax.data import hf_tokenizer
from seqjax.errors import UserError
from seqjax.host import disk, safetensors
from seqjax.trained.opened import OpenRun
from seqjax.trained.transformers_form import arrays_to, config_to
from seqjax.training.start import named

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
