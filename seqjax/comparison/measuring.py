"""Loss by position of the runs of a sweep, on the same chains of windows, measured in parallel."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.host.stopping import stop_signals
from seqjax.host.wording import duration
from seqjax.sweeps.launch.local import Pool
from seqjax.sweeps.machine import Machine
from seqjax.tasks.text import load
from seqjax.trained.by_position import read_positions
from seqjax.trained.chains import Chains, make_chains


def chains_for(config: Config, chains: int, windows: int) -> Chains:
    """Chains of windows over the validation split of a config's text.

    Raises:
        UserError: the split is too short.
    """
    found = make_chains(config.train.context_length, characters_per_token(config), chains, windows)
    found.starts(len(load(config).shard("validation").tokens))
    return found


def characters_per_token(config: Config) -> float:
    """Bytes per token of the validation split; the corpora are almost pure ASCII, so bytes are characters."""
    shard = load(config).shard("validation")
    return shard.n_bytes / len(shard.tokens)


def measure_all(folders: Sequence[Path], chains: Chains, machine: Machine, say: Callable[[str], None]) -> int | None:
    """Write ``positions.npz`` for these chains in every run folder without it. Returns the signal that stopped it.

    Raises:
        UserError: a run that cannot be evaluated.
    """
    missing = [folder for folder in folders if read_positions(folder, chains) is None]
    requests = [
        {"positions": str(folder), "chains": chains.as_fields(), "threads": machine.threads or 1} for folder in missing
    ]
    began, answered = time.monotonic(), itertools.count(1)

    def heard(*_: Any) -> None:
        count = next(answered)
        left = (time.monotonic() - began) / count * (len(missing) - count)
        say(f"loss by position: {count} of {len(missing)} runs, {duration(left)} left")

    with stop_signals() as stopping:
        pool = Pool(None, machine, say=say, stopping=stopping)
        try:
            answers = pool.ask_all(requests, heard)
        finally:
            pool.close()
    if stopping:
        return stopping[0]
    for folder, answer in zip(missing, answers, strict=True):
        if answer["outcome"] != "done":
            raise UserError(f"{folder}: its loss by position cannot be measured: {answer['reason']}")
    return None
