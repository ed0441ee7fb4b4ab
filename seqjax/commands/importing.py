"""`seqjax import`: a model of Hugging Face's transformers as a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config.plain import whole
from seqjax.errors import UserError

EXPLAINED = """
FOLDER holds config.json, model.safetensors and tokenizer.json: GPT2LMHeadModel, LlamaForCausalLM or Qwen3ForCausalLM
of the forms that `seqjax export --to hf` writes, such as gpt2 and distilgpt2. Pickles are not opened.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "import",
        """
        seqjax import distilgpt2/ --data.corpus english
        seqjax positions runs/imported/transformer-6x768-0123456789 RUN --plot positions.png
        seqjax train CONFIG --from runs/imported/transformer-6x768-0123456789
        """,
        explained=EXPLAINED,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of transformers")
    parser.add_argument("--runs", type=Path, default=Path("runs/imported"), help="parent of the run [runs/imported]")
    parser.add_argument("--context", type=whole(1), help="T of the held-out windows [the model's]")
    parser.add_argument("--windows", type=whole(1), default=256, help="held-out windows [256]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Import, evaluate by position, print the loss and the folder."""
    given = shared.config_options(rest)
    if others := [key for key in given if key != "data.corpus"]:
        raise UserError(f"command line: --{others[0]}: unknown option; an imported model takes --data.corpus")
    from seqjax.config import DataConfig
    from seqjax.host.wording import with_error
    from seqjax.runs import read_result
    from seqjax.trained.imported import evaluate_import, import_transformers

    data = DataConfig(**({"corpus": given["data.corpus"]} if given else {}))
    folder = import_transformers(options.folder, options.runs, data, options.windows, options.context)
    print(f"run       {folder}")
    run = evaluate_import(folder)
    found = read_result(folder)["validation"]
    print(f"held out  {with_error(found['loss'], found['loss_se'])} nats per token, {found['bits_per_byte']:.4f} bits")
    print(f"          per byte, of {found['tokens']:,} tokens of '{run.config.data.corpus}'")
    return 0
