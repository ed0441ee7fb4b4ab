"""`seqjax export`: trained parameters in the files of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import seqjax
from seqjax.commands import options as shared
from seqjax.errors import UserError
from seqjax.host.streams import tell_note

EXPLAINED = """
safetensors: every family and task; a file of arrays by name, with the config as metadata.
hf: a folder for Hugging Face's transformers, with the tokenizer:
  GPT2LMHeadModel    positions learned, norm layernorm, mlp gelu or relu
  LlamaForCausalLM   positions rotary, norm rmsnorm, mlp swiglu
  Qwen3ForCausalLM   the same with qk_norm true and bias false
Other forms have no class there and are refused.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "export",
        """
        seqjax export RUN --to safetensors --output lstm.safetensors
        seqjax export RUN --to hf --output folder       # AutoModelForCausalLM.from_pretrained("folder")
        """,
        explained=EXPLAINED,
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--to", choices=("safetensors", "hf"), required=True, help="the form")
    parser.add_argument("--output", type=Path, metavar="PATH", help="[RUN/export.safetensors, RUN/hf]")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which parameters [last]")
    shared.add_corpus(parser)
    shared.add_code(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the files and print where they are."""
    shared.configs_of_runs([options.folder], rest, options.trust_code)
    from seqjax.trained.exported import export_safetensors, export_transformers

    run = seqjax.open(options.folder, checkpoint=options.checkpoint, corpus=options.corpus)
    if options.to == "safetensors":
        path = options.output or options.folder / "export.safetensors"
        if path.is_dir():
            raise UserError(f"command line: --output {path}: is a folder; name a file")
        export_safetensors(run, path)
    else:
        path = options.output or options.folder / "hf"
        if path.is_file() or (path / "metrics.jsonl").exists() or (path / "data.json").exists():
            raise UserError(f"command line: --output {path}: is a file or a run folder; name another folder")
        for note in export_transformers(run, path):
            tell_note(note)
    print(f"{options.checkpoint} checkpoint, step {run.step}: wrote {path}")
    return 0
