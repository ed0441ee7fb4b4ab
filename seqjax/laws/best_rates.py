"""The rule by which a model's learning rate is chosen from its runs. Nothing here needs pandas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple


class Trial(NamedTuple):
    """A run with its learning rate, seed and held-out loss; None: not known."""

    rate: float | None
    seed: int | None
    loss: float | None


def best_rate(trials: Iterable[Trial]) -> float | None:
    """The rate with the lowest mean loss; None if fewer than two rates have a loss.

    Rates are compared on the seeds that all rates have: a search trains further seeds only at the chosen rate. Without
    such a seed they are compared on all seeds.
    """
    known = [trial for trial in trials if trial.rate is not None and trial.loss is not None]
    rates_of = defaultdict(set)
    for trial in known:
        rates_of[trial.seed].add(trial.rate)
    rates = set().union(*rates_of.values())
    shared = [trial for trial in known if rates_of[trial.seed] == rates]
    losses = {rate: [trial.loss for trial in shared or known if trial.rate == rate] for rate in sorted(rates)}
    return min(losses, key=lambda rate: fmean(losses[rate])) if len(losses) > 1 else None


def by_model(models: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Model -> its rows, for what tells the model of each row: all but rate and seed."""
    rows = defaultdict(list)
    for row, model in enumerate(models):
        rows[model].append(row)
    return rows


def at_best(models: Sequence[Hashable], trials: Sequence[Trial]) -> list[int]:
    """The rows at the best rate of their model, all seeds; those of a model with one rate too."""
    found = []
    for rows in by_model(models).values():
        best = best_rate([trials[row] for row in rows])
        found += [row for row in rows if best in (None, trials[row].rate)]
    return sorted(found)
