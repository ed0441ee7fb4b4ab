"""The rule by which a model's learning rate is chosen from its runs. Nothing here needs pandas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple


class Trial(NamedTuple):
    """A run with its learning rate, seed and held-out loss; None: not known. The loss of a diverged run is infinite."""

    rate: float | None
    seed: int | None
    loss: float | None


class Choice(NamedTuple):
    """What is chosen of a model, whose runs differ in rate and seed alone.

    Attributes:
        rate: the best one; None if fewer than two were tried, or if a run of each diverged.
        tried: all rates, rising, those of diverged runs too.
        kept: the finished runs at the best rate, all seeds; all finished runs if fewer than two rates were tried.
        left, diverged: the other finished runs, and the diverged ones.
    """

    rate: float | None
    tried: tuple[float, ...]
    kept: Sequence[int]
    left: Sequence[int]
    diverged: Sequence[int]

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried."""
        return self.rate is not None and self.rate in (self.tried[0], self.tried[-1])


def mean_losses(trials: Iterable[Trial]) -> dict[float, float]:
    """The mean loss of each rate, by rising rate; infinite if a run diverged.

    Rates are compared on the seeds that all rates have: a search trains further seeds only at the chosen rate. Without
    such a seed they are compared on all seeds.
    """
    known = [trial for trial in trials if trial.rate is not None and trial.loss is not None]
    rates_of = defaultdict(set)
    for trial in known:
        rates_of[trial.seed].add(trial.rate)
    rates = set().union(*rates_of.values())
    shared = [trial for trial in known if rates_of[trial.seed] == rates]
    return {rate: fmean(trial.loss for trial in shared or known if trial.rate == rate) for rate in sorted(rates)}


def best_rate(trials: Iterable[Trial]) -> float | None:
    """The rate with the lowest mean loss; None if there are fewer than two, or if a run of each diverged."""
    means = mean_losses(trials)
    best = min(means, key=means.__getitem__, default=None)
    return best if len(means) > 1 and math.isfinite(means[best]) else None


def choices(designs: Sequence[Hashable], tokens: Sequence[Hashable], trials: Sequence[Trial]) -> list[Choice]:
    """What is chosen of each model: of the runs of equal design, all but rate and seed, and equal training tokens.

    A diverged run ended before its last token: it is of each model of its design in which no run with its rate and seed
    has finished.
    """
    models: dict[Hashable, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    lost: dict[Hashable, list[int]] = defaultdict(list)
    for row, (design, seen, trial) in enumerate(zip(designs, tokens, trials, strict=True)):
        (lost[design] if trial.loss == math.inf else models[design][seen]).append(row)
    found = []
    for design in dict.fromkeys(designs):
        found += [_choice(finished, lost[design], trials) for finished in models[design].values() or [[]]]
    return found


def _choice(finished: Sequence[int], lost: Sequence[int], trials: Sequence[Trial]) -> Choice:
    there = {trials[row][:2] for row in finished}
    diverged = [row for row in lost if trials[row][:2] not in there]
    own = [trials[row] for row in (*finished, *diverged)]
    tried, best = tuple(mean_losses(own)), best_rate(own)
    left = [row for row in finished if len(tried) > 1 and trials[row].rate != best]
    kept = sorted({*finished} - {*left})
    return Choice(best, tried, kept, left, diverged)
