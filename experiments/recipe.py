"""The recipe step by step: from embedding and unembedding to a Transformer, on characters and on BPE tokens.

    python experiments/recipe.py                     # about half an hour on two CPU cores; stop and start it at will
    python experiments/recipe.py --dry-run
    python experiments/recipe.py --record            # and keep the numbers and the figure

The five models of configs/recipe/, width 64, two blocks, four million tokens of the embedded corpus each, three seeds
(configs/sweeps/recipe.yaml). The learning rate of each is the best of four on BPE tokens at seed 0
(configs/sweeps/recipe-rates.yaml, trained too). Differences between steps are of runs with the same seed, and so with
the same batches. The first step sees the current token alone: it cannot beat the bigram, which is counted here in
closed form. Expected, bits per byte taken off by each step:

    characters: MLP -0.001 ± 0.001, attention 0.958 ± 0.118, normalization 0.109 ± 0.101, four heads 0.019 ± 0.045
    BPE tokens: MLP -0.004 ± 0.005, attention 0.204 ± 0.005, normalization -0.035 ± 0.020, four heads 0.007 ± 0.010
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from baselines import compressed_bits
from common import ROOT, in_common, paired, run, sweep_table

from seqjax import runs
from seqjax.config import Config
from seqjax.data import evaluation_windows, gather_windows, window_batch
from seqjax.data.bigrams import cross_entropies, pairs_of
from seqjax.errors import UserError
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.laws.intervals import t_interval
from seqjax.plots.recipe import draw_recipe
from seqjax.tasks.text import load
from seqjax.tasks.text_evaluation import shard_bits_per_byte

STEPS: dict[str, dict[str, Any]] = {
    "embedding, unembedding": {"model.n_layers": 0},
    "+ residual MLP": {"model.attention": False},
    "+ self-attention": {"model.norm": "none"},
    "+ normalization": {"model.n_heads": 1},
    "+ four heads": {},
}
"""Name -> what tells a step from those after it, in the table of runs."""
RATES = ROOT / "configs" / "sweeps" / "recipe-rates.yaml"
RATE, SEED = "optimizer.learning_rate", "train.seed"


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The steps of each tokenizer, and the references."""
    _, rates = sweep_table(RATES, folder.parent)
    if rates is None:
        raise UserError(f"{RATES.name}: was stopped; start the same command again")
    found: dict[str, Any] = {
        "bz2_bits_per_byte": compressed_bits("english", "validation"),
        "rates": {name: losses_of_rates(of_step(rates, name)) for name in STEPS},
        "tokenizers": {},
    }
    for tokenizer, own in table[table["status"] == "finished"].groupby("data.tokenizer", sort=False):
        config = runs.read_config(folder / own["run_id"].iloc[0])
        rows = [summarise(name, of_step(own, name)) for name in STEPS]
        for row, before in zip(rows[1:], rows, strict=False):
            row |= gains(before, row)
        found["tokenizers"][str(tokenizer)] = {"steps": rows, **references(config)}
    print(as_text(found))
    return found, {"recipe": draw_recipe(list(STEPS), found["tokenizers"], found["bz2_bits_per_byte"])}


def of_step(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The runs of a step: what tells it holds, and what tells each step before it does not."""
    chosen = table
    for step, told in STEPS.items():
        holds = np.ones(len(chosen), bool)
        for key, value in told.items():
            holds &= (chosen[key] == value).to_numpy(bool)
        if step == name:
            return chosen[holds]
        chosen = chosen[~holds]
    raise KeyError(name)


def losses_of_rates(table: pd.DataFrame) -> dict[str, float | None]:
    """The loss at each learning rate; None where the run diverged."""
    rows = table.sort_values(RATE)[[RATE, "status", "loss"]].itertuples(index=False)
    return {f"{rate:g}": float(loss) if status == "finished" else None for rate, status, loss in rows}


def summarise(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """A step: the loss of every seed, and their mean with half the width of its 95 % interval.

    Raises:
        UserError: it has no run.
    """
    table = table.sort_values(SEED)
    if table.empty:
        raise UserError(f"{name}: none of its runs has finished")
    return {
        "step": name,
        "parameters": int(table["params_total"].iloc[0]),
        "learning_rate": float(table[RATE].iloc[0]),
        "seeds": [int(seed) for seed in table[SEED]],
        "nats": [float(loss) for loss in table["loss"]],
        "bits": [float(bits) for bits in table["bits_per_byte"]],
        "nats_per_token": t_interval(table["loss"].to_list()),
        "bits_per_byte": t_interval(table["bits_per_byte"].to_list()),
    }


def gains(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a step takes off the loss, seed by seed: mean and half the width of its 95 % interval; and the seeds.

    Raises:
        UserError: no seed is in both.
    """
    nats, bits = (
        paired(*(pd.Series(row[name], index=row["seeds"]) for row in (before, after)), after["step"])
        for name in ("nats", "bits")
    )
    seeds = [int(seed) for seed in nats.index]
    return {"gain_nats": t_interval(nats), "gain_bits_per_byte": t_interval(bits), "gain_seeds": seeds}


def references(config: Config) -> dict[str, Any]:
    """Unigram and bigram by counting, on the windows on which the runs are evaluated, in nats and bits per byte.

    Of all training text; and the bigram of the tokens that a run saw, those of the first seed.
    """
    text, train = load(config), config.train
    held_out, vocab_size = text.shard("validation"), text.tokenizer.vocab_size
    starts = evaluation_windows(held_out.tokens, config.evaluation.final_windows, train.context_length)
    held_out_Px2 = pairs_of(gather_windows(held_out.tokens, starts, train.context_length))
    tokens = np.asarray(text.shard("train").tokens)
    all_Px2 = np.stack([tokens[:-1], tokens[1:]], axis=1)
    batches = [window_batch(tokens, 0, step, train.batch_size, train.context_length) for step in range(train.steps)]
    unigram, bigram = cross_entropies(all_Px2, held_out_Px2, vocab_size)
    _, bigram_seen = cross_entropies(pairs_of(np.concatenate(batches)), held_out_Px2, vocab_size)
    nats = {"unigram": unigram, "bigram": bigram, "bigram_of_tokens_seen": bigram_seen}
    bits = {f"{name}_bits_per_byte": shard_bits_per_byte(loss, held_out) for name, loss in nats.items()}
    return {**{f"{name}_nats_per_token": loss for name, loss in nats.items()}, **bits, "vocabulary": vocab_size}


def as_text(found: dict[str, Any]) -> str:
    """The tables of the README."""
    lines = []
    for tokenizer, own in found["tokenizers"].items():
        lines += [
            f"| {tokenizer}, V = {own['vocabulary']:,} | parameters | rate | nats/token | bits/byte | "
            "the step takes off, bits/byte |",
            "|---|---|---|---|---|---|",
            f"| unigrams counted | | | {own['unigram_nats_per_token']:.3f} | {own['unigram_bits_per_byte']:.3f} | |",
            f"| bigrams counted | | | {own['bigram_nats_per_token']:.3f} | {own['bigram_bits_per_byte']:.3f} | |",
            f"| bigrams counted, of the tokens a run saw | | | {own['bigram_of_tokens_seen_nats_per_token']:.3f} | "
            f"{own['bigram_of_tokens_seen_bits_per_byte']:.3f} | |",
        ]
        for before, row in zip([None, *own["steps"]], own["steps"], strict=False):
            gain = ""
            if before:
                paired_seeds = row.get("gain_seeds", row["seeds"])  # older records have all of them
                seeds = in_common(*map(len, (paired_seeds, row["seeds"], before["seeds"])))
                gain = f"{_pm(row['gain_bits_per_byte'])}{seeds}"
            lines.append(
                f"| {row['step']} | {row['parameters']:,} | {row['learning_rate']:g} | {_pm(row['nats_per_token'])} | "
                f"{_pm(row['bits_per_byte'])} | {gain} |"
            )
        lines.append("")
    lines.append(f"bz2: {found['bz2_bits_per_byte']:.3f} bits per byte.")
    return "\n".join(lines)


def _pm(interval: tuple[float, float]) -> str:
    return with_error(*interval, 3)


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("recipe", "recipe", __doc__, analyse)))
