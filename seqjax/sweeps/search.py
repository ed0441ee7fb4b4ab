"""The learning rate of each model, found with the same effort for every family.

A model is a config without learning rate and seed. For each model the rates of the sweep file are tried. While the best
rate is at an edge, the next rate beyond that edge is tried too. Whenever one model gets another rate, so do its peers
(the models with the same axes except ``model.*``): if their best rate is not at an edge, a rate beside it is tried. So
no family has an advantage from more trials. Peers that ``--only`` leaves out get no runs. Where all their rates have
results, an edge of theirs counts as in the whole sweep.

With ``search.transfer`` only the models at the smallest value of that axis are searched. Each of the others is trained
at the rate of the one that it follows, the model with the same other axes.

The search is a pure function of the results so far: a resumed sweep makes the same decisions again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqjax.config import text_without
from seqjax.sweeps.axes import RATE, SEED, unique
from seqjax.sweeps.grid import Planned, Sweep, sharing

Results = Callable[[str], Mapping[str, Any] | None]
"""run id -> the contents of its result.json; None if it has not ended."""


@dataclass(frozen=True)
class Trial:
    """The result of one rate: the mean final held-out loss over seeds, infinite if a run diverged, None if unknown."""

    rate: float
    runs: tuple[str, ...]
    loss: float | None
    loss_se: float | None = None


@dataclass(frozen=True)
class Curve:
    """The search of one model.

    Attributes:
        label: readable name of the model.
        trials: one per rate, rising.
        chosen: the best rate; None if trials are open or all diverged.
        edge: ``low`` or ``high`` if the best rate is at that end, else None.
        settled: whether no further rate will be tried.
        follows: the label of the model whose rate this one has taken; None: its own rates were searched.
    """

    label: str
    axes: dict[str, Any]
    trials: tuple[Trial, ...]
    chosen: float | None
    edge: str | None
    settled: bool
    follows: str | None = None


def search(sweep: Sweep, results: Results) -> tuple[list[Planned], list[Curve]]:
    """All runs of a sweep that follow from the results so far, and the curve of each model.

    Without a search: the points of the sweep, and no curves.
    """
    planned = sweep.runs()
    if sweep.search is None:
        return sharing(planned), []
    groups = _models(planned)
    leaders = list(groups)
    left_out = _group(_models(sweep.peers()), _Model.peer_key)
    for key, peers in _group(groups, _Model.peer_key).items():
        for _ in range(sweep.search.extend):
            known = [*peers, *(model for model in left_out.get(key, []) if not model.is_open(results))]
            if any(model.is_open(results) for model in peers) or not any(model.edge(results) for model in known):
                break
            for model in known:
                model.add(sweep, model.next_rate(results))
    curves = []
    for leader in leaders:
        settled = not leader.is_open(results) and _settled(leader, leaders, results)
        curves.append(leader.curve(results, settled))
        if settled and (rate := leader.chosen(results)):
            for model in (leader, *(follower := _followers(sweep, leader, rate))):
                for seed in sweep.search.seeds:
                    model.add_seed(sweep, rate, seed)
            groups += follower
            curves += [model.followed(results, curves[-1]) for model in follower]
    found = {run.run_id: run for model in groups for run in [*model.runs, *model.seeds]}
    return sharing(list(found.values())), curves


def foreseen(sweep: Sweep, results: Results) -> list[Planned]:
    """All runs of a sweep if the middle rate turns out to be the best, with those that its search will add.

    It is for predicted times, and for telling whether a run can be of this sweep. The rates of the runs are guesses.
    """
    planned = search(sweep, results)[0]
    while sweep.search is not None:
        middle = sweep.search.rates[len(sweep.search.rates) // 2]
        distance = {run.run_id: abs(math.log(run.config.optimizer.learning_rate / middle)) for run in planned}

        def guess(run_id: str, distance: dict[str, float] = distance) -> Mapping[str, Any] | None:
            known = {"status": "finished", "validation": {"loss": distance[run_id]}} if run_id in distance else None
            return results(run_id) or known

        grown = search(sweep, guess)[0]
        if {run.run_id for run in grown} == distance.keys():
            break
        planned = grown
    return planned


def _followers(sweep: Sweep, leader: _Model, rate: float) -> list[_Model]:
    """The models that take the rate of a leader, at that rate."""
    name = sweep.apart(leader.points[0])
    following = [point for point in sweep.points if not sweep.leads(point) and sweep.apart(point) == name]
    return _models([sweep.plan({**point, RATE: rate}) for point in following])


def _models(planned: Sequence[Planned]) -> list[_Model]:
    """The runs by model: their config without rate and seed."""
    return [_Model(runs) for runs in _group(planned, lambda run: text_without(run.config, (RATE, SEED))).values()]


def _settled(model: _Model, groups: Sequence[_Model], results: Results) -> bool:
    return not any(peer.is_open(results) for peer in groups if peer.peer_key() == model.peer_key())


class _Model:
    """The runs of one model, by rate."""

    def __init__(self, runs: Sequence[Planned]) -> None:
        self.runs = list(runs)
        self.seeds: list[Planned] = []
        self.points = [{k: v for k, v in run.axes.items() if k != RATE} for run in runs]
        rates = self.rates()
        self.ratio = (rates[-1] / rates[0]) ** (1 / max(1, len(rates) - 1))  # of neighbours: the geometric mean

    def peer_key(self) -> str:
        """Equal for models that are compared: their axes without ``model.*`` and the seed."""
        axes = {k: v for k, v in self.points[0].items() if not k.startswith("model.") and k != SEED}
        return json.dumps(axes, sort_keys=True, default=str)

    def rates(self) -> list[float]:
        return sorted({run.config.optimizer.learning_rate for run in self.runs})

    def trials(self, results: Results) -> list[Trial]:
        trials = []
        for rate in self.rates():
            here = [run.run_id for run in self.runs if run.config.optimizer.learning_rate == rate]
            trials.append(_trial(rate, here, results))
        return trials

    def is_open(self, results: Results) -> bool:
        return any(trial.loss is None for trial in self.trials(results))

    def chosen(self, results: Results) -> float | None:
        """The rate with the lowest loss; None if every rate diverged."""
        best = _best(self.trials(results))
        return None if best is None else best.rate

    def edge(self, results: Results) -> str | None:
        trials = self.trials(results)
        best = _best(trials)
        if best is None or best is trials[0]:
            return "low"
        return "high" if best is trials[-1] else None

    def next_rate(self, results: Results) -> float:
        """A rate beyond the edge if the best is there, else between the best and its better neighbour."""
        trials, rates = self.trials(results), self.rates()
        match self.edge(results):
            case "low":
                return _round(rates[0] / self.ratio)
            case "high":
                return _round(rates[-1] * self.ratio)
        place = trials.index(_best(trials))
        beside = min((trials[place - 1], trials[place + 1]), key=lambda trial: trial.loss)
        return _round(math.sqrt(trials[place].rate * beside.rate))

    def add(self, sweep: Sweep, rate: float) -> None:
        if rate not in self.rates():
            self.runs += [sweep.plan({**point, RATE: rate}) for point in unique(self.points)]

    def add_seed(self, sweep: Sweep, rate: float, seed: int) -> None:
        for point in unique({k: v for k, v in p.items() if k != SEED} for p in self.points):
            self.seeds.append(sweep.plan({**point, RATE: rate, SEED: seed}))

    def curve(self, results: Results, settled: bool) -> Curve:
        trials = self.trials(results)
        open_ = self.is_open(results)
        label = self.runs[0].run_id.rpartition("-")[0]
        axes = {k: v for k, v in self.points[0].items() if k != SEED}
        return Curve(
            label,
            axes,
            tuple(trials),
            None if open_ else self.chosen(results),
            None if open_ else self.edge(results),
            settled and not open_,
        )

    def followed(self, results: Results, leader: Curve) -> Curve:
        """The curve of a follower: one rate, which is at an edge where it is one of the leader."""
        own = self.curve(results, leader.settled)
        return dataclasses.replace(own, edge=leader.edge, follows=leader.label)


def _trial(rate: float, run_ids: Sequence[str], results: Results) -> Trial:
    found = [results(run_id) for run_id in run_ids]
    if any(result is None for result in found):
        return Trial(rate, tuple(run_ids), None)
    if any(result["status"] != "finished" for result in found):
        return Trial(rate, tuple(run_ids), math.inf)
    losses = [result["validation"]["loss"] for result in found]
    errors = [result["validation"].get("loss_se") for result in found]
    mean = math.fsum(losses) / len(losses)
    error = None if None in errors else math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
    return Trial(rate, tuple(run_ids), mean, error)


def _best(trials: Sequence[Trial]) -> Trial | None:
    known = [trial for trial in trials if trial.loss is not None and math.isfinite(trial.loss)]
    return min(known, key=lambda trial: trial.loss, default=None)


def _round(rate: float) -> float:
    """Three digits, so that a rate has one spelling and one run id."""
    return float(f"{rate:.2e}")


def _group(things: Sequence[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def curves_json(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """The curves as JSON. A diverged trial has loss null and status "diverged"."""
    rows = []
    for curve in curves:
        trials = [
            {
                "learning_rate": trial.rate,
                "runs": list(trial.runs),
                "loss": trial.loss if trial.loss is not None and math.isfinite(trial.loss) else None,
                "loss_se": trial.loss_se,
                "status": "open" if trial.loss is None else "finished" if math.isfinite(trial.loss) else "diverged",
            }
            for trial in curve.trials
        ]
        rows.append({**dataclasses.asdict(curve), "trials": trials})
    return rows
