"""Sentiment of sentences: every family with every head, beside a bag of words and a fixed window, on SST-2 and on a
language in which order decides.

    python experiments/sentiment.py                                    # about 15 minutes of CPU time
    python experiments/sentiment.py --configs configs/tasks/sentiment-phrases.yaml      # no download; runs anywhere
    python experiments/sentiment.py --grid --record                    # the search on the dev set, once

Test accuracy in per cent, SST-2, mean of states: bag of words 79.9, window of 5 79.0, Elman 78.6, LSTM 78.4, GRU
78.0, Transformer 75.9; generated sentences: bag of words 50.1, window of 5 100.0, all others at least 65.2.

`--record` keeps the numbers and the figure. Dotted options change the config: `--task.corpus my.txt --train.steps 200`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from common import surroundings, writable

from seqjax.commands.options import config_options, split_config_options
from seqjax.config import ModelConfig, named_run_id
from seqjax.config.plain import whole
from seqjax.data.sentiment import Splits
from seqjax.errors import UserError
from seqjax.families import FAMILIES, Transformer, Window
from seqjax.host.disk import storage_errors, write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.host.wording import with_error
from seqjax.laws.intervals import t_interval
from seqjax.plots.sentiment import draw_sentiment, show_model
from seqjax.plots.style import save
from seqjax.runs import read_result
from seqjax.runs.config_file import load_as
from seqjax.sweeps.worker import share_compilations
from seqjax.tasks.sentiment import Config, load, make_task
from seqjax.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "sentiment"
CONFIGS = tuple(ROOT / "configs" / "tasks" / f"{name}.yaml" for name in ("sentiment", "sentiment-phrases"))
PUBLISHED = {  # per cent on the test set of SST-2; all of them trained on its labelled phrases too
    "CNN-rand, phrases (Kim 2014)": 82.7,
    "CNN-nonstatic, word2vec, phrases (Kim 2014)": 87.2,
    "LSTM, GloVe, phrases (Tai et al. 2015)": 84.9,
    "BiLSTM, GloVe, phrases (Tai et al. 2015)": 87.5,
}
POOLS = ("last", "mean", "attention")


class Variant(NamedTuple):
    """A model of the table."""

    family: str
    pool: str
    causal: bool = True


VARIANTS = (
    Variant("bag", "mean"),
    Variant("window", "mean"),
    *(Variant(family, pool) for family in ("elman", "lstm", "gru", "transformer") for pool in POOLS),
    *(Variant(family, "mean", False) for family in ("lstm", "gru", "transformer")),
)
GRID_RATES, GRID_SEED = (3e-3, 1e-2), 100
"""Learning rates tried for each family, mean of all states, on the dev set of SST-2."""
CHOSEN = dict.fromkeys(("bag", "window", "elman", "lstm", "gru", "transformer"), 1e-2)
"""The learning rate with the lowest dev loss of the grid, for SST-2; other corpora have that of their config."""


@pinned()
def main() -> int:
    """Train every variant with every seed, and write table, figure and results.json; or the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, nargs="+", default=CONFIGS, help="a corpus each [sentiment*.yaml]")
    parser.add_argument("--seeds", type=whole(1), default=3, help="of each model [3]")
    parser.add_argument("--only", nargs="+", choices=tuple(CHOSEN), default=tuple(CHOSEN), help="families [all]")
    parser.add_argument("--grid", action="store_true", help="the search of learning rates instead")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "sentiment", help="for the run folders")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "sentiment", help="for the figure")
    parser.add_argument("--record", action="store_true", help=f"write to {RESULTS.relative_to(ROOT)} instead")
    words, dotted = split_config_options(sys.argv[1:])
    options = parser.parse_args(words)
    bases = [load_as(Config, path, config_options(dotted)) for path in options.configs]
    target = writable(RESULTS if options.record else options.report)
    share_compilations()
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        if options.grid:
            rows = search(bases[0], load(bases[0]), options.runs / "grid")
            write_json(target / "grid.json", {"corpus": bases[0].task.corpus, "rows": rows, **surroundings()})
            return 0
        splits = [load(base) for base in bases]  # all of them, before the first run
        corpora = {b.task.corpus: measure(b, read, options) for b, read in zip(bases, splits, strict=True)}
        record = {"corpora": corpora, "published": PUBLISHED, **surroundings()}
        write_json(target / "results.json", record)
        figure = draw_sentiment(corpora, PUBLISHED)
        for kind in ("svg", "png"):
            save(figure, target / f"sentiment.{kind}")
    for corpus in corpora:
        print(as_table(record, corpus), end="\n\n")
    print(f"figure and results.json: {target}")
    return 0


def config_of(base: Config, variant: Variant, rate: float, seed: int) -> Config:
    """What one run is."""
    return replace(
        base,
        model=model_of(variant.family, base.model.d_model, base.model.dropout),
        task=replace(base.task, pool=variant.pool, causal=variant.causal),
        optimizer=replace(base.optimizer, learning_rate=rate),
        train=replace(base.train, seed=seed),
    )


def model_of(family: str, width: int, dropout: float) -> ModelConfig:
    """One layer of each, two of the Transformer. A bag of words is a Transformer without layers: each word adds a
    weight of its own to the logits (the product of its D numbers with the readout), and the mean is taken.
    """
    if family == "bag":
        return Transformer(d_model=width, n_layers=0, positions="none", norm="none", dropout=dropout)
    if family == "window":
        return Window(d_model=width, window=5, d_ff=2 * width, dropout=dropout)
    if family == "transformer":
        return Transformer(d_model=width, n_layers=2, n_heads=4, d_ff=2 * width, dropout=dropout)
    return FAMILIES[family](d_model=width, n_layers=1, dropout=dropout)


def run(base: Config, splits: Splits, runs: Path, variant: Variant, rate: float, seed: int,
        score_test: bool = True) -> dict[str, Any]:  # fmt: skip
    """The result of one run, trained or read."""
    config = config_of(base, variant, rate, seed)
    config = replace(config, task=replace(config.task, score_test=score_test))
    name = f"{variant.family}-{variant.pool}{'' if variant.causal else '-both'}-lr{rate:g}-seed{seed}"
    folder = runs / named_run_id(f"{base.task.corpus}-{name}", config)
    result = read_result(folder)  # of a run that has ended, without its parameters
    if result is None:
        result = train(config, folder, task=make_task(config, splits), quiet=True, wandb_mode="disabled")
    if result["status"] != "finished":
        raise UserError(f"{folder}: the run {result['status']}; choose a smaller --optimizer.learning-rate")
    test = f"  test {100 * result['test']['accuracy']:.1f} %" if "test" in result else ""
    found = result["validation"]
    print(f"{name:<40} dev {100 * found['accuracy']:.1f} %  loss {found['loss']:.3f}{test}", flush=True)
    return result


def search(base: Config, splits: Splits, runs: Path) -> list[dict[str, Any]]:
    """Every family with every learning rate of the grid: what the dev set says of the mean over its states."""
    rows = []
    for family in CHOSEN:
        for rate in GRID_RATES:
            found = run(base, splits, runs, Variant(family, "mean"), rate, GRID_SEED, score_test=False)["validation"]
            best = {"loss": found["loss"], "accuracy": found["accuracy"]}
            rows.append({"family": family, "learning_rate": rate, **best})
    return rows


def best_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The learning rate with the lowest dev loss, by family."""
    best: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row["loss"]):
        best.setdefault(row["family"], row["learning_rate"])
    return best


def measure(base: Config, splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """Every variant with every seed, and what a guess of the most frequent class gets."""
    rows = []
    for variant in (variant for variant in VARIANTS if variant.family in options.only):
        rate = CHOSEN[variant.family] if base.task.corpus == "sst2" else base.optimizer.learning_rate
        results = [run(base, splits, options.runs, variant, rate, seed) for seed in range(options.seeds)]
        accuracy = [100 * result["test"]["accuracy"] for result in results]
        mean, half = t_interval(accuracy)
        rows.append(
            {
                **variant._asdict(),
                "parameters": results[0]["parameters"]["total"],
                "accuracy": accuracy,
                "mean": mean,
                "half_width": half if options.seeds > 1 else None,
                "dev_accuracy": [100 * result["validation"]["accuracy"] for result in results],
                "test_loss": [result["test"]["loss"] for result in results],
                "seconds": [result["seconds"] for result in results],
            }
        )
    labels = Counter(splits.test.labels.tolist())
    guess = 100 * labels[Counter(splits.train.labels.tolist()).most_common(1)[0][0]] / labels.total()
    return {"rows": rows, "guess": guess, "sentences": [len(split.labels) for split in splits]}


def as_table(record: dict[str, Any], corpus: str) -> str:
    """Test accuracy in per cent with 95 % intervals over seeds, models by heads, as Markdown."""
    found = record["corpora"][corpus]
    shown = {(show_model(row), row["pool"]): as_text(row["mean"], row["half_width"]) for row in found["rows"]}
    lines = ["| model | last state | mean | attention |", "|---|---|---|---|"]
    for model in dict.fromkeys(model for model, _ in shown):
        lines.append(f"| {model} | " + " | ".join(shown.get((model, pool), "-") for pool in POOLS) + " |")
    return "\n".join(lines)


def summary(record: dict[str, Any]) -> str:
    """One sentence: the mean over states of every model that reads forwards, and the least of all on generated text."""
    rows = {corpus: found["rows"] for corpus, found in record["corpora"].items()}
    forwards = [row for row in rows["sst2"] if row["causal"] and row["pool"] == "mean"]
    told = ", ".join(f"{show_model(row)} {row['mean']:.1f}" for row in forwards)
    bag, window, *others = (row["mean"] for row in rows["phrases"])
    return (
        f"Test accuracy in per cent, SST-2, mean of states: {told}; generated sentences: bag of words {bag:.1f}, "
        f"window of 5 {window:.1f}, all others at least {min(others):.1f}."
    )


def as_text(mean: float, half_width: float | None) -> str:
    """A value and half the width of its interval, if it has one."""
    return with_error(mean, half_width, 1)


if __name__ == "__main__":
    sys.exit(guarded(main))
