"""One trunk, many horizons: runs of a sweep that share their first steps.

    optimizer: {schedule: wsd, warmup_steps: 100, decay_fraction: 0.2}
    horizon: {trunk: 5e7, branches: [3e6, 6e6, 1.2e7, 2.5e7, 5e7]}      # tokens

Every horizon is an axis value of ``horizon.tokens``, and so a run of its own with the config that it has alone. Until
the decay of the shortest begins all take the same steps. The longest one is the trunk; each other one is a branch that
starts from the trunk's checkpoint at the step where its own decay begins (see `seqjax.training.trunk`).
All have the warmup that ``horizon.warmup_fraction`` gives the shortest, and the spacing that ``horizon.evaluations``
gives the trunk: what differs before the decay would make them other runs.
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
    """Take ``horizon.trunk`` and ``horizon.branches`` from a sweep file: the tokens of all its runs, rising.

    Raises:
        UserError: one without the other, or values that are no horizons.
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
        raise UserError(f"{where}: {max(branches):g} is more than horizon.trunk; at most {trunk:g} is allowed")
    return tuple(sorted({float(trunk), *map(float, branches)}))


def trunk_of(config: RunConfig, horizons: tuple[float, ...], place: str) -> tuple[str, tuple[int, ...]]:
    """The run id of the trunk of a run of these horizons, and the steps at which the decays of its branches begin.

    Raises:
        UserError: another schedule than wsd.
    """
    if config.optimizer.schedule != "wsd":
        raise UserError(f"{place}: horizon.trunk: needs optimizer.schedule wsd; it is {config.optimizer.schedule}")
    *branches, steps = (steps_of_tokens(config, tokens) for tokens in horizons)
    trunk = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    return run_id(trunk), tuple(sorted({decay_begins(config.optimizer, branch) for branch in branches} - {0}))


def _is_tokens(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
