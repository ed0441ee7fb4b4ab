"""One trunk, many horizons: runs of a sweep that share their first steps.

    optimizer: {schedule: wsd, warmup_steps: 100, decay_fraction: 0.2}
    horizon: {trunk: 5e7, branches: [3e6, 6e6, 1.2e7, 2.5e7, 5e7]}      # tokens

Each horizon is a value of the axis ``horizon.tokens``, and gives one run. Its config is the same as without a trunk.
All runs take the same steps until the first decay begins. The longest run is the trunk. The others are branches: each
starts from the trunk's checkpoint at the step where its own decay begins (see `seqjax.training.trunk`).

All runs share the warmup that ``horizon.warmup_fraction`` gives the shortest, and the steps between evaluations that
``horizon.evaluations`` gives the trunk. Otherwise their steps before the decay would differ.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from seqjax.config import RunConfig, decay_begins, run_id
from seqjax.errors import UserError
from seqjax.runs.targets import steps_of_tokens
from seqjax.runs.tree import Tree

TOKENS = "horizon.tokens"


def take_horizons(file: Tree) -> tuple[float, ...]:
    """Remove ``horizon.trunk`` and ``horizon.branches`` from a sweep file; return the tokens of its runs, rising.

    Raises:
        UserError: one key is missing, or a value is not allowed.
    """
    section = file.values.get("horizon")
    if not isinstance(section, dict) or not {"trunk", "branches"} & section.keys():
        return ()
    trunk, branches = (section.pop(name, None) for name in ("trunk", "branches"))
    if not section:
        del file.values["horizon"]
    if not _is_tokens(trunk):
        raise UserError(f"{file.place('horizon.trunk')}: horizon.trunk: expected tokens such as 5e7, got {trunk!r}")
    where = f"{file.place('horizon.branches')}: horizon.branches"
    if not isinstance(branches, list) or not branches or not all(map(_is_tokens, branches)):
        raise UserError(f"{where}: expected a list of tokens such as [3e6, 6e6], got {branches!r}")
    if max(branches) > trunk:
        raise UserError(f"{where}: {max(branches):,.0f} is more than horizon.trunk; at most {trunk:,.0f} is allowed")
    return tuple(sorted({float(trunk), *map(float, branches)}))


def trunk_of(config: RunConfig, horizons: tuple[float, ...], place: str) -> tuple[str, tuple[int, ...]]:
    """The run id of the trunk, and the steps at which the decays of its branches begin.

    Args:
        config: of any run with these horizons.
    Raises:
        UserError: the schedule is not wsd.
    """
    if config.optimizer.schedule != "wsd":
        raise UserError(f"{place}: horizon.trunk: needs optimizer.schedule wsd; it is {config.optimizer.schedule}")
    *branches, steps = (steps_of_tokens(config, tokens) for tokens in horizons)
    trunk = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    return run_id(trunk), tuple(sorted({decay_begins(config.optimizer, branch) for branch in branches} - {0}))


def _is_tokens(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
