"""`seqjax sample`: text from a trained run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import seqjax
from seqjax.commands import options as shared
from seqjax.config.plain import number, whole
from seqjax.errors import UserError


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "sample",
        """
        seqjax sample runs/lstm/lstm-2x128-0123456789 --prompt "To be"
        seqjax sample RUN --prompt "To be" --temperature 0.8 --top-k 40 --top-p 0.95 --tokens 500
        seqjax sample RUN --temperature 0        # greedy
        """,
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--prompt", help="text to continue [a new line]")
    parser.add_argument("--tokens", type=whole(), default=300, help="tokens to write [300]")
    parser.add_argument("--temperature", type=number(), default=0.8, help="0: the likeliest token each time [0.8]")
    parser.add_argument("--top-k", type=whole(), default=0, help="choose among the k likeliest tokens; 0: all [0]")
    parser.add_argument(
        "--top-p", type=number(), default=1.0, help="choose among the likeliest tokens of total probability p [1.0]"
    )
    parser.add_argument("--samples", type=whole(), default=1, help="number of texts [1]")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of the sampling [0]")
    shared.add_corpus(parser)
    shared.add_code(parser)
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which parameters [last]")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the samples."""
    for name, value, right in (
        ("temperature", options.temperature, options.temperature >= 0),
        ("top-k", options.top_k, options.top_k >= 0),
        ("top-p", options.top_p, 0 < options.top_p <= 1),
        ("tokens", options.tokens, options.tokens > 0),
        ("samples", options.samples, options.samples > 0),
    ):
        if not right:
            raise UserError(f"command line: --{name} {value} is out of range")
    shared.configs_of_runs([options.folder], rest, options.trust_code)
    run = seqjax.open(options.folder, checkpoint=options.checkpoint, corpus=options.corpus)
    texts = run.sample(
        "\n" if options.prompt is None else options.prompt,
        options.tokens,
        samples=options.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    print(f"{options.checkpoint} checkpoint, step {run.step}", file=sys.stderr)
    for text in texts:
        print(text)
        if options.samples > 1:
            print("-" * 40)
    return 0
