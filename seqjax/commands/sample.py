"""`seqjax sample`: text from a trained run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import runs
from seqjax.commands import options as shared
from seqjax.config import Config
from seqjax.errors import UserError, utf8
from seqjax.plain import number, whole


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "sample",
        "write text with a trained run",
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
    parser.add_argument("--samples", type=whole(), default=1, help="how many texts [1]")
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
    (config,) = shared.configs_of_runs([options.folder], rest, options.trust_code)
    for text in sample_texts(
        config,
        options.folder,
        options.prompt,
        options.tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        options.samples,
        options.seed,
        options.checkpoint,
        options.corpus,
    ):
        print(text)
        if options.samples > 1:
            print("-" * 40)
    return 0


def sample_text(
    config: Config, folder: Path, prompt: str | None, tokens: int, temperature: float, corpus: str | None = None
) -> str:
    """One sample with the last parameters of a run."""
    return sample_texts(config, folder, prompt, tokens, temperature, corpus=corpus)[0]


def sample_texts(
    config: Config,
    folder: Path,
    prompt: str | None,
    tokens: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    samples: int = 1,
    seed: int = 0,
    which: str = "last",
    corpus: str | None = None,
) -> list[str]:
    """Prompts with their continuations, as text; ``corpus`` says where the run's text is now.

    Raises:
        UserError: the run has no checkpoint, or the prompt is empty.
    """
    import sys

    from seqjax.training.generation import generate
    from seqjax.training.run import restore_params
    from seqjax.training.setup import load_text, make_model, make_program

    text = load_text(config, folder=folder, corpus=corpus)
    runs.check_data(folder, text.corpus.sha256, text.tokenizer.sha256)
    tokenizer = text.tokenizer
    model = make_model(config, tokenizer.vocab_size)
    program = make_program(config, model, devices=1)
    step, params = restore_params(config, folder, program, lambda text: print(text, file=sys.stderr), which)
    print(f"{which} checkpoint, step {step}", file=sys.stderr)
    start = tokenizer.encode(utf8("\n" if prompt is None else prompt, "command line: --prompt"))
    if len(start) == 0:
        raise UserError(f"command line: --prompt {prompt!r} has no tokens")
    limit = config.train.context_length if config.model.context_limit else None
    new = generate(
        model,
        params,
        np.tile(start, (samples, 1)),
        tokens,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        max_context=limit,
    )
    return [tokenizer.decode(np.concatenate([start, row])) for row in new]
