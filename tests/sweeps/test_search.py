"""The learning-rate search, on made-up results: a parabola in log rate with a known optimum for each family."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqjax.config import Config
from seqjax.errors import UserError
from seqjax.sweeps import folder as folders
from seqjax.sweeps.grid import Planned, Sweep, read_sweep
from seqjax.sweeps.printed import describe_curves
from seqjax.sweeps.search import Curve, curves_json, foreseen, search
from seqjax.sweeps.sweep import superseded

Loss = Callable[[Config], float | None]
"""The held-out loss of a run; infinite: it diverged; None: it never ends."""


class Laboratory:
    """Gives a result for every run that was asked for, when it is told to."""

    def __init__(self, sweep: Sweep, loss: Loss) -> None:
        self.sweep, self.loss = sweep, loss
        self.asked: dict[str, Planned] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.curves: list[Curve] = []
        self.ask()

    def ask(self) -> None:
        planned, self.curves = search(self.sweep, self.ended.get)
        for run in planned:
            self.asked.setdefault(run.run_id, run)

    def waiting(self) -> list[str]:
        able = [run_id for run_id, run in self.asked.items() if self.loss(run.config) is not None]
        return [run_id for run_id in able if run_id not in self.ended]

    def train(self, run_id: str) -> None:
        loss = self.loss(self.asked[run_id].config)
        self.ended[run_id] = (
            {"status": "finished", "validation": {"loss": loss, "loss_se": 0.01}}
            if math.isfinite(loss)
            else {"status": "diverged"}
        )

    def finish(self) -> Laboratory:
        """Round by round, until nothing more is asked for."""
        while waiting := self.waiting():
            for run_id in waiting:
                self.train(run_id)
            self.ask()
        return self

    def rates(self, label: str) -> list[float]:
        (curve,) = [curve for curve in self.curves if curve.label.startswith(label)]
        return [trial.rate for trial in curve.trials]


def parabola(**optima: float) -> Loss:
    """2 + (log10 rate - log10 optimum)^2 for each family."""
    return lambda c: 2 + (math.log10(c.optimizer.learning_rate) - math.log10(optima[c.model.family])) ** 2


BOTH = "list: [{model.family: lstm}, {model.family: gru}]\n"
RATES = "search: {rates: [1e-3, 1e-2, 1e-1]}\n"


@pytest.fixture
def laboratory(tmp_path: Path, small_text: Path) -> Callable[[str, Loss], Laboratory]:
    def make(text: str, loss: Loss) -> Laboratory:
        path = tmp_path / "s.yaml"
        path.write_text(f"model: {{d_model: 8}}\ndata: {{corpus: {small_text}}}\n{text}")
        return Laboratory(read_sweep(path), loss)

    return make


def test_an_optimum_inside_is_found_and_nothing_is_added(laboratory: Any) -> None:
    found = laboratory(BOTH + RATES, parabola(lstm=1e-2, gru=0.02)).finish()
    assert len(found.asked) == 6
    for curve in found.curves:
        assert (curve.chosen, curve.edge, curve.settled) == (1e-2, None, True)
        assert [trial.rate for trial in curve.trials] == [1e-3, 1e-2, 1e-1]
    assert [trial.loss for trial in found.curves[0].trials] == pytest.approx([3, 2, 3])
    assert "edge" not in describe_curves(found.curves)


def test_without_a_search_the_points_are_the_runs(laboratory: Any) -> None:
    found = laboratory(BOTH, parabola(lstm=1e-2, gru=1e-2)).finish()
    assert (len(found.asked), found.curves) == (2, [])


@pytest.mark.parametrize(
    ("optimum", "rates"),
    [
        (1e-5, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (1e1, [1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2]),
        (4e-4, [1e-4, 1e-3, 1e-2, 1e-1]),
    ],
)
def test_a_best_at_an_edge_moves_the_edge(laboratory: Any, optimum: float, rates: list[float]) -> None:
    found = laboratory("list: [{model.family: lstm}]\n" + RATES, parabola(lstm=optimum)).finish()
    (curve,) = found.curves
    assert found.rates("lstm") == rates
    assert (curve.edge, curve.settled) == (None, True)
    assert curve.chosen == min(rates, key=lambda rate: abs(math.log10(rate / optimum)))


def test_uneven_rates_go_on_by_their_mean_factor(laboratory: Any) -> None:
    text = "list: [{model.family: lstm}]\nsearch: {rates: [1e-3, 2e-3, 16e-3], extend: 2}\n"
    assert laboratory(text, parabola(lstm=1.0)).finish().rates("lstm") == [1e-3, 2e-3, 16e-3, 64e-3, 256e-3]


def test_after_so_many_rates_it_stops_and_says_so(laboratory: Any) -> None:
    for extend in (0, 1, 3):
        text = f"list: [{{model.family: lstm}}]\nsearch: {{rates: [1e-3, 1e-2, 1e-1], extend: {extend}}}\n"
        found = laboratory(text, parabola(lstm=1e-30)).finish()
        (curve,) = found.curves
        assert found.rates("lstm") == [10.0**power for power in range(-3 - extend, 0)]
        assert (curve.chosen, curve.edge, curve.settled) == (10.0 ** (-3 - extend), "low", True)
        assert "the best lies at the low edge of the rates, and search.extend allows no more" in describe_curves(
            [curve]
        )


def test_peers_get_as_many_rates_and_refine(laboratory: Any) -> None:
    """The LSTM's optimum lies three rates further; the GRU, whose best is inside, halves around its own in log rate."""
    found = laboratory(BOTH + RATES, parabola(lstm=1e-5, gru=10**-1.9)).finish()
    assert found.rates("lstm") == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    # -2 is best, -1 the better neighbour: -1.5; then -2 and -1.5: -1.75; then -2 and -1.75: -1.875
    assert found.rates("gru") == [1e-3, 1e-2, 0.0133, 0.0178, 0.0316, 1e-1]
    assert [curve.chosen for curve in found.curves] == [1e-5, 0.0133]


def test_models_of_another_size_or_length_are_no_peers(laboratory: Any) -> None:
    sizes = "grid: {size.non_embedding: [1024, 4096]}\n"

    def loss(config: Config) -> float:
        return parabola(lstm=1e-5 if config.model.d_model == 8 else 1e-2, gru=1e-2)(config)

    found = laboratory(BOTH + sizes + RATES, loss).finish()
    counts = {(curve.label[:4], curve.axes["size.non_embedding"]): len(curve.trials) for curve in found.curves}
    assert counts == {("lstm", 1024): 6, ("gru-", 1024): 6, ("lstm", 4096): 3, ("gru-", 4096): 3}
    lengths = "grid: {horizon.tokens: [4096, 8192]}\n"
    found = laboratory(
        BOTH + lengths + RATES, lambda c: parabola(lstm=1e-5 if c.train.steps == 1 else 1e-2, gru=1e-2)(c)
    ).finish()
    assert [len(curve.trials) for curve in found.curves] == [6, 3, 6, 3]


def test_a_diverged_trial_is_an_infinite_loss(laboratory: Any) -> None:
    def loss(config: Config) -> float:
        return math.inf if config.optimizer.learning_rate > 0.05 else parabola(lstm=1e-1)(config)

    found = laboratory("list: [{model.family: lstm}]\n" + RATES, loss).finish()
    (curve,) = found.curves
    assert [trial.loss for trial in curve.trials] == [pytest.approx(6), pytest.approx(3), math.inf]
    assert (curve.chosen, curve.edge) == (1e-2, None)
    (entry,) = curves_json(found.curves)
    assert json.loads(json.dumps(entry, allow_nan=False))["trials"][2]["status"] == "diverged"
    assert "0.1: diverged" in describe_curves(found.curves)


def test_where_all_diverged_it_goes_down(laboratory: Any) -> None:
    def loss(config: Config) -> float:
        return math.inf if config.optimizer.learning_rate > 1e-5 else 3 + config.optimizer.learning_rate

    found = laboratory("list: [{model.family: lstm}]\n" + RATES, loss).finish()
    assert found.rates("lstm") == [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert (found.curves[0].chosen, found.curves[0].edge) == (1e-7, "low")
    seeds = "list: [{model.family: lstm}]\nsearch: {rates: [1e-3, 1e-2, 1e-1], seeds: [1]}\n"
    found = laboratory(seeds, lambda _: math.inf).finish()
    assert (len(found.asked), found.curves[0].chosen, found.curves[0].settled) == (7, None, True)


def test_an_open_trial_settles_nothing(laboratory: Any) -> None:
    """One run of the GRU never ends: it and its peer wait; those with another batch size do not."""
    inner = parabola(lstm=1e-5, gru=1e-2)

    def loss(config: Config) -> float | None:
        stuck = (config.model.family, config.model.d_model, config.optimizer.learning_rate) == ("gru", 8, 1e-1)
        return None if stuck else inner(config)

    text = BOTH + "grid: {train.batch_size: [4, 8]}\n" + RATES
    found = laboratory(text, lambda c: loss(c) if c.train.batch_size == 4 else inner(c)).finish()
    by_model = {(curve.label[:4], curve.axes["train.batch_size"]): curve for curve in found.curves}
    assert len(by_model["lstm", 8].trials) == len(by_model["gru-", 8].trials) == 6
    for family in ("lstm", "gru-"):
        waiting = by_model[family, 4]
        assert len(waiting.trials) == 3 and not waiting.settled
    assert (by_model["gru-", 4].chosen, by_model["gru-", 4].edge) == (None, None)
    assert "0.1: open" in describe_curves(found.curves)
    statuses = [trial["status"] for entry in curves_json(found.curves) for trial in entry["trials"]]
    assert statuses.count("open") == 1


def test_seeds_train_at_the_chosen_rate_once_it_is_settled(laboratory: Any) -> None:
    text = BOTH + "search: {rates: [1e-3, 1e-2, 1e-1], seeds: [5, 6]}\n"
    found = laboratory(text, parabola(lstm=1e-4, gru=1e-2))
    for run_id in found.waiting():
        found.train(run_id)
    found.ask()
    assert {run.config.train.seed for run in found.asked.values()} == {0}  # the LSTM's optimum is at an edge
    found.finish()
    seeds = {
        (run.config.model.family, run.config.optimizer.learning_rate, run.config.train.seed)
        for run in found.asked.values()
        if run.config.train.seed
    }
    chosen = {curve.label.partition("-")[0]: curve.chosen for curve in found.curves}
    assert chosen["lstm"] == 1e-4
    assert seeds == {(family, chosen[family], seed) for family in ("lstm", "gru") for seed in (5, 6)}


def test_a_trial_is_the_mean_over_its_seeds(laboratory: Any) -> None:
    text = "list: [{model.family: lstm}]\ngrid: {train.seed: [0, 1, 2, 3]}\n" + RATES
    shift = (0.0, 0.1, 0.3, -0.2)
    found = laboratory(text, lambda c: parabola(lstm=1e-2)(c) + shift[c.train.seed]).finish()
    (curve,) = found.curves
    assert [trial.loss for trial in curve.trials] == pytest.approx([3.05, 2.05, 3.05])
    assert [trial.loss_se for trial in curve.trials] == pytest.approx([0.01 / math.sqrt(4)] * 3)
    assert [len(trial.runs) for trial in curve.trials] == [4, 4, 4]
    one_diverges = laboratory(
        text, lambda c: math.inf if (c.train.seed, c.optimizer.learning_rate) == (3, 1e-2) else parabola(lstm=1e-2)(c)
    ).finish()
    assert one_diverges.curves[0].chosen != 1e-2
    low = laboratory(text, parabola(lstm=1e-4)).finish()
    added = [run.config for run in low.asked.values() if run.config.optimizer.learning_rate < 1e-3]
    assert sorted((c.optimizer.learning_rate, c.train.seed) for c in added) == [
        (rate, seed) for rate in (1e-5, 1e-4) for seed in range(4)
    ]


FREE = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOSSES = st.dictionaries(st.sampled_from(["lstm", "gru"]), st.floats(-7, 3), min_size=2, max_size=2)


@FREE
@given(LOSSES, st.integers(0, 5), st.floats(-3, 3), st.randoms(use_true_random=False))
def test_it_decides_again_what_it_had_decided(
    laboratory: Any, powers: dict[str, float], extend: int, ceiling: float, source: random.Random
) -> None:
    """Whatever is known of the results, and in whatever order it came: the same runs in the end, the same choice."""
    text = BOTH + f"search: {{rates: [1e-3, 4e-3, 1e-2], extend: {extend}, seeds: [7]}}\n"
    parabolas = parabola(**{family: 10**power for family, power in powers.items()})

    def loss(config: Config) -> float:
        return math.inf if config.optimizer.learning_rate > 10**ceiling else parabolas(config)

    whole = laboratory(text, loss).finish()
    one_by_one = laboratory(text, loss)
    while waiting := one_by_one.waiting():
        one_by_one.train(source.choice(waiting))
        one_by_one.ask()
    assert one_by_one.asked.keys() == whole.asked.keys()
    assert one_by_one.curves == whole.curves
    planned, curves = search(whole.sweep, whole.ended.get)  # and from all results at once
    assert {run.run_id for run in planned} == whole.asked.keys() and curves == whole.curves


@FREE
@given(LOSSES, st.integers(0, 5))
def test_effort_is_equal_and_the_choice_is_the_best(laboratory: Any, powers: dict[str, float], extend: int) -> None:
    text = BOTH + f"search: {{rates: [1.0001e-3, 4e-3, 1e-2], extend: {extend}}}\n"
    found = laboratory(text, parabola(**{family: 10**power for family, power in powers.items()})).finish()
    lstm, gru = found.curves
    assert len(lstm.trials) == len(gru.trials) <= 3 + extend
    for curve, power in zip(found.curves, (powers["lstm"], powers["gru"]), strict=True):
        rates = [trial.rate for trial in curve.trials]
        assert rates == sorted(rates)
        assert abs(math.log10(curve.chosen) - power) == min(abs(math.log10(rate) - power) for rate in rates)
        assert curve.edge == {rates[0]: "low", rates[-1]: "high"}.get(curve.chosen)
        assert curve.edge is None or len(rates) == 3 + extend
        added = [rate for rate in rates if rate not in (1.0001e-3, 4e-3, 1e-2)]
        assert [float(f"{rate:.2e}") for rate in added] == added


SIZES = "grid: {model.d_model: [8, 16, 32]}\n"


def test_rates_of_the_smallest_size_are_transferred(laboratory: Any) -> None:
    text = BOTH + SIZES + "search: {rates: [1e-3, 1e-2, 1e-1], transfer: model.d_model, seeds: [1]}\n"
    found = laboratory(text, parabola(lstm=0.012, gru=0.09)).finish()
    by_width: dict[tuple[str, int, int], set[float]] = {}
    for run in found.asked.values():
        key = run.config.model.family, run.config.model.d_model, run.config.train.seed
        by_width.setdefault(key, set()).add(run.config.optimizer.learning_rate)
    searched = {1e-3, 1e-2, 1e-1}
    assert by_width["lstm", 8, 0] == searched | {3.16e-2}  # the GRU's best was at an edge, so both got another rate
    assert by_width["gru", 8, 0] == searched | {1.0}
    for width in (16, 32):
        for seed in (0, 1):
            assert (by_width["lstm", width, seed], by_width["gru", width, seed]) == ({1e-2}, {1e-1})
    assert (by_width["lstm", 8, 1], by_width["gru", 8, 1]) == ({1e-2}, {1e-1})
    curves = {(curve.axes["model.family"], curve.axes["model.d_model"]): curve for curve in found.curves}
    assert curves["gru", 8].follows is None and curves["gru", 32].follows == curves["gru", 8].label
    assert all(curve.settled and curve.edge is None for curve in found.curves)
    assert f"the rate found for {curves['gru', 8].label}" in describe_curves(found.curves)
    again = search(found.sweep, found.ended.get)[0]
    assert {run.run_id for run in again} == found.asked.keys()  # a resumed sweep decides the same


def test_a_follower_is_at_an_edge_where_its_leader_is(laboratory: Any) -> None:
    text = "list: [{model.family: lstm}]\n" + SIZES + "search: {rates: [1, 2, 4], extend: 0, transfer: model.d_model}\n"
    found = laboratory(text, parabola(lstm=100.0)).finish()
    assert [curve.edge for curve in found.curves] == ["high"] * 3


def test_only_keeps_the_models_whose_rates_the_others_take(laboratory: Any) -> None:
    text = BOTH + SIZES + "search: {rates: [1e-3, 1e-2, 1e-1], transfer: model.d_model}\n"
    whole = laboratory(text, parabola(lstm=0.012, gru=0.09))
    only = {"only.model.d_model": 32, "only.model.family": "lstm"}
    found = Laboratory(read_sweep(Path(whole.sweep.tree.source), only), whole.loss).finish()
    rates: dict[tuple[str, int], set[float]] = {}
    for run in found.asked.values():
        key = run.config.model.family, run.config.model.d_model
        rates.setdefault(key, set()).add(run.config.optimizer.learning_rate)
    assert rates == {("lstm", 8): {1e-3, 1e-2, 1e-1}, ("lstm", 32): {1e-2}}
    assert len(found.sweep.left_out) == 4


def test_only_decides_as_the_whole_sweep_did(laboratory: Any) -> None:
    """The GRU has one size. Its best rate at an edge gave the LSTM further rates, one of which is the best."""
    models = "list: [{model.family: lstm, grid: {model.d_model: [8, 32]}}, {model.family: gru, model.d_model: 8}]\n"
    text = models + "search: {rates: [1e-3, 1e-2, 1e-1], transfer: model.d_model}\n"
    whole = laboratory(text, parabola(lstm=0.022, gru=0.5)).finish()
    sweep = read_sweep(Path(whole.sweep.tree.source), {"only.model.d_model": 32})
    planned, curves = search(sweep, whole.ended.get)
    assert len(planned) == len(curves[0].trials) + 1 > 4
    assert {run.run_id for run in planned} < whole.asked.keys()


def test_what_only_leaves_out_needs_no_runs(laboratory: Any) -> None:
    """Not the rates that a model of it still lacks, and not another seed of a model that is kept."""
    whole = laboratory(BOTH + RATES, parabola(lstm=0.022, gru=0.5))
    for run_id in whole.waiting():
        whole.train(run_id)
    sweep = read_sweep(Path(whole.sweep.tree.source), {"only.model.family": "lstm"})
    again = Laboratory(sweep, whole.loss)
    again.ended |= whole.ended
    again.ask()
    assert {run.config.model.family for run in again.finish().asked.values()} == {"lstm"}
    assert again.curves[0].settled and len(again.curves[0].trials) == 4
    seeds = laboratory(BOTH + RATES + "grid: {train.seed: [0, 1]}\n", whole.loss)
    assert not read_sweep(Path(seeds.sweep.tree.source), {"only.train.seed": 1}).peers()


def test_runs_at_rates_of_an_earlier_search_are_told(laboratory: Any, tmp_path: Path) -> None:
    """A smaller size is added. The LSTM takes another rate from it than before, the GRU does not."""

    def loss(config: Config) -> float:
        moved = (config.model.family, config.model.d_model) == ("lstm", 4)
        return parabola(lstm=0.09 if moved else 1e-2, gru=1e-2)(config)

    text = BOTH + SIZES + "search: {rates: [1e-3, 1e-2, 1e-1], transfer: model.d_model, extend: 0}\n"
    first = laboratory(text, loss).finish()
    grown = laboratory(text.replace("[8,", "[4, 8,"), loss).finish()
    runs_ = first.asked | grown.asked
    folders.make(tmp_path / "runs", grown.sweep, list(runs_.values()))
    for run_id, result in (first.ended | grown.ended).items():
        (tmp_path / "runs" / run_id / "result.json").write_text(json.dumps(result | {"steps": 1}))
    found = {(runs_[run_id].config.model.family, runs_[run_id].config.model.d_model): 0 for run_id in runs_}
    for run_id in superseded(tmp_path / "runs", search(grown.sweep, grown.ended.get)[0]):
        found[runs_[run_id].config.model.family, runs_[run_id].config.model.d_model] += 1
    assert found["gru", 32] == found["gru", 4] == found["lstm", 4] == 0
    assert found["gru", 8] == found["lstm", 8] == 2 and found["lstm", 32] == 1


def test_runs_are_foreseen_with_followers_and_seeds(laboratory: Any) -> None:
    text = BOTH + SIZES + "search: {rates: [1e-3, 1e-2, 1e-1], transfer: model.d_model, seeds: [1, 2]}\n"
    found = laboratory(text, parabola(lstm=1e-2, gru=1e-2))
    expected = {run.run_id for run in foreseen(found.sweep, found.ended.get)}
    assert len(found.asked) == 6 < len(expected)
    assert found.finish().asked.keys() == expected


@pytest.mark.parametrize("axis", ["model.family", "train.seed", "model.d_modle"])
def test_a_transfer_over_no_axis_of_numbers_is_refused(laboratory: Any, axis: str) -> None:
    text = BOTH + "grid: {model.d_model: [8, 16], train.seed: [0, 1]}\n"
    with pytest.raises(UserError, match=r"search.transfer: expected an axis of numbers.*allowed: model.d_model"):
        laboratory(text + f"search: {{rates: [1, 2, 4], transfer: {axis}}}\n", parabola(lstm=1, gru=1))
