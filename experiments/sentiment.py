"""Sentiment of sentences: every family with every head, beside a bag of words and a fixed window, on SST-2 and on a
language in which order decides.

    python experiments/sentiment.py                                    # about 15 minutes of CPU time
    python experiments/sentiment.py --only.base sentiment-phrases      # no download; runs anywhere
    python experiments/sentiment.py --rates --record                   # the search on the dev set, once

Test accuracy in per cent, SST-2, mean of states: bag of words 79.9, window of 5 79.0, Elman 78.6, LSTM 78.4, GRU
78.0, Transformer 75.9; generated sentences: bag of words 50.1, window of 5 100.0, all others at least 65.2.

`--record` keeps the numbers and the figure. Options are those of `seqjax sweep` for configs/sweeps/sentiment.yaml:
`--only.base sentiment-phrases --task.corpus my.txt --train.steps 200`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from common import results, run

from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.laws.intervals import t_interval
from seqjax.plots.sentiment import draw_sentiment, show_model
from seqjax.runs import read_config
from seqjax.tasks.sentiment import Config, load

PUBLISHED = {  # per cent on the test set of SST-2; all of them trained on its labelled phrases too
    "CNN-rand, phrases (Kim 2014)": 82.7,
    "CNN-nonstatic, word2vec, phrases (Kim 2014)": 87.2,
    "LSTM, GloVe, phrases (Tai et al. 2015)": 84.9,
    "BiLSTM, GloVe, phrases (Tai et al. 2015)": 87.5,
}
POOLS = ("last", "mean", "attention")


def main() -> int:
    """Train every model with every seed, or the search of rates."""
    if "--rates" in sys.argv:
        sys.argv.remove("--rates")
        return run("sentiment", "sentiment-rates", __doc__, analyse_rates, file="grid.json")
    return run("sentiment", "sentiment", __doc__, analyse)


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Test accuracy of every model on every corpus, and what a guess of the most frequent class gets."""
    corpora = {}
    for corpus, own in table.groupby("task.corpus", sort=False):
        rows = [summarise(*kind, results(runs, folder)) for kind, runs in kinds(own, folder)]
        splits = load(read_config(folder / own["run_id"].iloc[0]))
        labels = Counter(splits.test.labels.tolist())
        guess = 100 * labels[Counter(splits.train.labels.tolist()).most_common(1)[0][0]] / labels.total()
        corpora[str(corpus)] = {"rows": rows, "guess": guess, "sentences": [len(split.labels) for split in splits]}
    record = {"corpora": corpora, "published": PUBLISHED}
    print("\n\n".join(as_table(record, corpus) for corpus in corpora))
    return record, {"sentiment": draw_sentiment(corpora, PUBLISHED)}


def analyse_rates(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the dev set says of every family at every learning rate."""
    rows = []
    for run_id, found in zip(table["run_id"], results(table, folder), strict=True):
        config = read_config(folder / run_id)
        rate, held_out = config.optimizer.learning_rate, found["validation"]
        scores = {"loss": held_out["loss"], "accuracy": held_out["accuracy"]}
        rows.append({"family": family_of(config), "learning_rate": rate, **scores})
    print(f"lowest dev loss: {best_of(rows)}")
    return {"corpus": config.task.corpus, "rows": rows}, {}


def kinds(table: pd.DataFrame, folder: Path) -> list[tuple[tuple[str, str, bool], pd.DataFrame]]:
    """(family, pool, causal) of every model, with its runs."""
    configs = [read_config(folder / run_id) for run_id in table["run_id"]]
    of_run = [(family_of(config), config.task.pool, config.task.causal) for config in configs]
    return [(kind, table[[own == kind for own in of_run]]) for kind in dict.fromkeys(of_run)]


def family_of(config: Config) -> str:
    """The family; a Transformer without layers is a bag of words."""
    return config.model.family if config.model.n_layers else "bag"


def best_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The learning rate with the lowest dev loss, by family."""
    best: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row["loss"]):
        best.setdefault(row["family"], row["learning_rate"])
    return best


def summarise(family: str, pool: str, causal: bool, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A model: what each seed gave, and the mean with half the width of its 95 % interval."""
    accuracy = [100 * result["test"]["accuracy"] for result in found]
    mean, half = t_interval(accuracy)
    return {
        "family": family,
        "pool": pool,
        "causal": causal,
        "parameters": found[0]["parameters"]["total"],
        "accuracy": accuracy,
        "mean": mean,
        "half_width": half if len(found) > 1 else None,
        "dev_accuracy": [100 * result["validation"]["accuracy"] for result in found],
        "test_loss": [result["test"]["loss"] for result in found],
        "seconds": [result["seconds"] for result in found],
    }


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
