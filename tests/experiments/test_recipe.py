"""The recipe: its sweep is of the shipped configs, its sums are right, and what is told of it was recorded."""

from __future__ import annotations

import json
import math
from typing import Any

import experiment
import pandas as pd
import pytest
from matplotlib.figure import Figure

from seqjax.config import to_dict
from seqjax.data.bigrams import cross_entropies
from seqjax.errors import UserError
from seqjax.plots.recipe import draw_recipe
from seqjax.runs.config_file import load_config
from seqjax.sweeps.grid import read_sweep

CONFIGS = experiment.REPOSITORY / "configs"
FILES = ("1-embedding", "2-mlp", "3-attention", "4-normalization", "5-heads")
RECORDED = experiment.RESULTS / "recipe" / "results.json"
module = experiment.load("recipe")


@pytest.mark.parametrize("sweep", ["recipe", "recipe-rates"])
def test_the_sweeps_are_of_the_recipe(sweep: str) -> None:
    planned = [run.config for run in read_sweep(CONFIGS / "sweeps" / f"{sweep}.yaml", {}).runs()]
    found = dict.fromkeys(json.dumps(to_dict(config)["model"]) for config in planned)
    shapes = {"model.d_model": 64, "model.n_layers": 2}
    want = []
    for name in FILES:
        options = {**shapes, "model.n_layers": 0} if name.startswith("1") else shapes
        want.append(json.dumps(to_dict(load_config(CONFIGS / "recipe" / f"{name}.yaml", options))["model"]))
    assert list(found) == want
    assert len(planned) == {"recipe": 5 * 2 * 3, "recipe-rates": 5 * 4}[sweep]


def made_up() -> pd.DataFrame:
    """Step k has loss 5 - k + seed / 10, and another tenth from step to step at seed 2."""
    rows = []
    for config in [run.config for run in read_sweep(CONFIGS / "sweeps" / "recipe.yaml", {}).runs()]:
        model, seed = config.model, config.train.seed
        step = 0 if not model.n_layers else 1 if not model.attention else 2 if model.norm == "none" else 3
        step += model.n_heads == 4
        loss = 5 - step + seed / 10 + (step / 10 if seed == 2 else 0)
        flat = {f"{s}.{k}": v for s, values in to_dict(config).items() for k, v in values.items()}
        rows.append({**flat, "loss": loss, "bits_per_byte": loss / 2, "params_total": 100 * step, "status": "finished"})
    return pd.DataFrame(rows)


def test_steps_are_told_apart_and_differences_are_by_seed() -> None:
    table = made_up()
    rows = [module.summarise(name, module.of_step(table, name)) for name in module.STEPS]
    assert [row["seeds"] for row in rows] == [[0, 0, 1, 1, 2, 2]] * 5  # of two tokenizers
    assert [row["parameters"] for row in rows] == [0, 100, 200, 300, 400]
    found = module.gains(row("a", {0: 5.0, 1: 5.1, 2: 5.2}), row("b", {0: 4.0, 1: 4.1, 2: 4.3}))
    mean, half = found["gain_nats"]
    assert mean == pytest.approx((1 + 1 + 0.9) / 3) and found["gain_seeds"] == [0, 1, 2]
    assert half == pytest.approx(4.302653 * math.sqrt(1 / 300) / math.sqrt(3), rel=1e-5)


def row(name: str, losses: dict[int, float]) -> dict[str, Any]:
    """A step with these losses by seed."""
    columns = {"params_total": 1, module.RATE: 1e-2, module.SEED: list(losses), "loss": list(losses.values())}
    return module.summarise(name, pd.DataFrame(columns).assign(bits_per_byte=lambda table: table["loss"]))


def test_seeds_that_diverged_in_one_step_are_not_in_the_difference() -> None:
    before, after = row("a", {1: 5.1, 2: 5.2}), row("b", {0: 4.0, 1: 4.0})
    after |= module.gains(before, after)
    assert after["gain_nats"][0] == pytest.approx(1.1) and after["gain_seeds"] == [1]
    counted = ("unigram", "bigram", "bigram_of_tokens_seen")
    own = {f"{name}_{unit}": 3.0 for name in counted for unit in ("nats_per_token", "bits_per_byte")}
    own |= {"vocabulary": 9, "steps": [before, after]}
    assert "| 1.100 (1 seed in common) |" in module.as_text({"tokenizers": {"chars": own}, "bz2_bits_per_byte": 2.0})
    with pytest.raises(UserError, match=r"^c: no seed in common: \(1, 2\) and \(0\)$"):
        module.gains(before, row("c", {0: 4.0}))
    with pytest.raises(UserError, match="c: none of its runs has finished"):
        row("c", {})


def test_the_figure_shows_every_step_with_its_interval() -> None:
    rows = [
        {"bits_per_byte": (3.0 - k / 10, 0.02), "gain_bits_per_byte": (0.1, 0.03), "seeds": [0, 1, 2]} for k in range(5)
    ]
    own = {"steps": rows, "bigram_bits_per_byte": 2.9}
    made = draw_recipe(list(module.STEPS), {"chars": own, "bpe-1024": own}, 2.2)
    assert isinstance(made, Figure) and made.get_supxlabel().startswith("means of 3 seeds, whiskers")
    rows[2] = rows[2] | {"seeds": [1]}
    assert draw_recipe(list(module.STEPS), {"chars": own}, 2.2).get_supxlabel().startswith("means of 1 to 3 seeds")
    left, right = made.axes
    assert [label.get_text().replace("\n", " ") for label in left.get_xticklabels()] == list(module.STEPS)
    assert len(right.patches) == 2 * 4 and len(left.containers) == 2


def test_a_bigram_model_cannot_beat_the_counted_bigram_where_all_is_seen() -> None:
    """The reference of the first step: for a periodic text the bigram is certain, the unigram is not."""
    pairs = pd.DataFrame({"a": [0, 1, 2] * 500, "b": [1, 2, 0] * 500}).to_numpy()
    unigram, bigram = cross_entropies(pairs, pairs, 3)
    assert unigram == pytest.approx(math.log(3), abs=1e-3) and bigram < 0.01


@pytest.fixture(scope="module")
def recorded() -> dict:
    if not RECORDED.is_file():
        pytest.skip("nothing recorded yet")
    return json.loads(RECORDED.read_text())


def test_what_is_told_was_recorded(recorded: dict) -> None:
    readme = (experiment.REPOSITORY / "experiments" / "README.md").read_text()
    assert module.as_text(recorded) in readme


def test_the_docstring_says_what_was_recorded(recorded: dict) -> None:
    for tokenizer, shown in (("chars", "characters"), ("bpe-1024", "BPE tokens")):
        steps = recorded["tokenizers"][tokenizer]["steps"][1:]
        names = ("MLP", "attention", "normalization", "four heads")
        gains = [f"{name} {module._pm(row['gain_bits_per_byte'])}" for name, row in zip(names, steps, strict=True)]
        assert f"{shown}: {', '.join(gains)}" in module.__doc__


def test_recorded_rates_are_the_best_of_those_tried_and_are_what_was_trained(recorded: dict) -> None:
    for own in recorded["tokenizers"].values():
        for row in own["steps"]:
            tried = {rate: loss for rate, loss in recorded["rates"][row["step"]].items() if loss is not None}
            assert row["learning_rate"] == float(min(tried, key=tried.get))
            assert row["seeds"] == [0, 1, 2]


def test_the_first_step_is_above_the_bigram_that_it_must_approach(recorded: dict) -> None:
    for own in recorded["tokenizers"].values():
        first = own["steps"][0]["nats_per_token"][0]
        assert own["bigram_nats_per_token"] < first < own["unigram_nats_per_token"]
