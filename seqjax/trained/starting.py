"""Fine-tuning: a new run that begins with the parameters of another one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from seqjax import runs
from seqjax.config import Config, RunConfig, run_id
from seqjax.data.kept import keep_tokenizer
from seqjax.errors import UserError
from seqjax.tasks import text
from seqjax.trained.opened import open_run
from seqjax.training.start import encoded, fitted, named, write_start


def start_from(config: RunConfig, source: Path) -> tuple[RunConfig, bytes]:
    """The config with the start from a run's last checkpoint (``train.start``), and the contents of its file.

    Raises:
        UserError: the run is of another task, has another tokenizer, or has parameters of other names or shapes.
    """
    run = open_run(source)
    if type(run.config) is not type(config):
        raise UserError(f"--from {source}: is a run of another task")
    facts = {}
    if isinstance(config, Config):
        if config.data.tokenizer != run.tokenizer.name:
            raise UserError(
                f"--from {source}: its tokenizer is {run.tokenizer.name}; data.tokenizer is {config.data.tokenizer}"
            )
        facts["tokenizer_sha256"] = run.tokenizer.sha256
        init = text.make_objective(config, run.tokenizer.vocab_size).init
        fitted(named(run.params), jax.eval_shape(init, jax.random.key(0)), f"--from {source}")
    name, content = encoded(run_id(run.config), run.params, facts)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, start=name)), content


def keep_start(config: RunConfig, folder: Path, source: Path, content: bytes) -> None:
    """Make the folder of the new run, with the parameters it starts from and their tokenizer."""
    runs.open_run(folder, config)
    if isinstance(config, Config):
        keep_tokenizer(folder, open_run(source).tokenizer)
    write_start(folder, content)
