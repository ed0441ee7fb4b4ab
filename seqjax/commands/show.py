"""`seqjax show`: the resolved config, parameter counts and costs, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqjax.commands import options as shared
from seqjax.config import Config, RunConfig, run_id, task_name, to_dict
from seqjax.config.plain import dump_yaml
from seqjax.host.wording import si


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "show",
        """
        seqjax show configs/english/lstm.yaml
        seqjax show configs/english/transformer.yaml --model.d-model 256
        """,
        fields=True,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG|RUN", help="a YAML config or a run folder")
    shared.add_code(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print config, counts and costs."""
    config = shared.config_of(options.config, rest, options.trust_code)
    if not isinstance(config, Config):
        return _show_task(config)
    from seqjax.models import count_parameters, flops_per_token, state_size
    from seqjax.tasks.text import load

    vocab_size = load(config).tokenizer.vocab_size
    context = config.train.context_length
    parameters = count_parameters(config.model, vocab_size, context)
    flops = flops_per_token(config.model, vocab_size, context, config.data.batching == "streams")
    tokens = config.train.steps * config.train.batch_size * context
    print(dump_yaml(to_dict(config)).rstrip())
    print(f"\nrun id {run_id(config)}\nvocabulary V = {vocab_size:,}\n")
    print("parameters")
    sums = ("total", "non_embedding", "with_readout")
    for group in [name for name in parameters if name not in sums and parameters[name]]:
        print(f"  {group:<34}{parameters[group]:>14,}")
    print(f"  {'total':<34}{parameters['total']:>14,}")
    print(f"  {'non-embedding (Kaplan et al. 2020)':<34}{parameters['non_embedding']:>14,}")
    print(f"  {'with readout':<34}{parameters['with_readout']:>14,}")
    print("\nFLOPs per token")
    print(f"  {'6 N, Kaplan et al. 2020':<34}{flops['kaplan_6n']:>14,.0f}")
    print(f"  {'exact, forward':<34}{flops['forward']:>14,.0f}")
    print(f"  {'exact, training (3 x forward)':<34}{flops['training']:>14,.0f}")
    print(f"\n{'state after a context, numbers':<36}{state_size(config.model, context):>14,}")
    print(
        f"\n{config.train.steps:,} steps of {config.train.batch_size * context:,} tokens: {si(tokens)}tokens, "
        f"{si(flops['training'] * tokens)}FLOP"
    )
    return 0


def _show_task(config: RunConfig) -> int:
    """Print the config and counts of a run of another task than text."""
    from seqjax.tasks import task_module

    module = task_module(task_name(config))
    task = module.make_task(config, module.load(config))
    print(dump_yaml(to_dict(config)).rstrip())
    print(f"\nrun id {run_id(config)}\n\nparameters")
    print(f"  {'total':<34}{task.parameters['total']:>14,}")
    print(f"  {'non-embedding, of the family':<34}{task.parameters['non_embedding']:>14,}")
    available = "" if task.available is None else f"; there are {task.available:,}"
    print(f"\n{config.train.steps:,} steps of {task.per_step:,} {task.unit}{available}")
    return 0
