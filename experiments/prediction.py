"""Predict, then train: the loss of the largest models from runs of smaller ones, written down before it is measured.

    python experiments/prediction.py --preset workstation --record   # first: the prediction; commit it, then train
    python experiments/prediction.py --preset workstation --record   # again when those runs exist: its error
    python experiments/prediction.py --preset workstation --size 3e5 --record      # of 300 k, from at most 150 k

The runs are those of a preset of Figure 7: LSTMs of one and of four layers and both forms of the Transformer with two.
Those of at most half of ``--size`` are fitted, for 1.6 M those of at most 400 k. Each model is fitted with Chinchilla's
law, L = E + A / N^alpha + B / D^beta, and with Kaplan's L(N, D), both by the default objective, on its runs at their
best rates. A prediction is for each horizon at the size that is held out. Its interval is the law's, from refits,
widened by the scatter of runs around the law: sqrt(half^2 + (1.96 s)^2), where s is the root mean square of the
residuals, corrected for the constants. Runs of one trunk share noise, which neither part knows of. A prediction that is
there is never replaced; "before" says whether no run of the held-out size had ended when it was written.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, ROOT, runs_at_best, surroundings, writable

from seqjax.host.disk import read_json, write_atomically, write_json
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.host.wording import si
from seqjax.laws import fit, make_points
from seqjax.laws.run_rows import at_best_rates
from seqjax.sweeps.table import gather

LAWS = ("chinchilla", "kaplan-nd")
PRESETS = ("h100", "workstation")
MODELS = {  # kind and layers
    "LSTM": ("lstm", 1),
    "LSTM of 4 layers": ("lstm", 4),
    "Transformer gpt2": ("transformer gpt2", 2),
    "Transformer modern": ("transformer modern", 2),
}


@pinned()
def main() -> int:
    """Write the prediction if there is none, and the error if the runs are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="h100", help="[h100]")
    parser.add_argument("--size", type=float, default=1.6e6, help="non-embedding parameters that are held out [1.6e6]")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="parent of the preset's sweep folder [runs]")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "prediction", help="[report/prediction]")
    parser.add_argument("--record", action="store_true", help="write to experiments/results/prediction instead")
    options = parser.parse_args()
    folder = f"{options.preset}-{si(options.size).replace(' ', '')}"
    target = writable((RESULTS / "prediction" if options.record else options.report) / folder)
    small, large = small_and_large(gather([options.runs / options.preset]), options.size)
    file = target / "prediction.json"
    written = read_json(file) if file.is_file() else {}
    for name, model in MODELS.items():
        if name not in written and len(rows := of_model(small, *model)):
            before = not len(of_model(large, *model))
            found = predicted(rows, options.size)
            written[name] = {"predicted": found, "before": before, "time": now(), **surroundings()}
            write_json(file, written)
    errors = {name: compared(one["predicted"], of_model(large, *MODELS[name])) for name, one in written.items()}
    text = as_text(errors)
    print(text)
    if len(large):
        runs = runs_at_best(pd.concat([small, large]))
        write_json(target / "errors.json", {"errors": errors, "at_best": runs, "time": now()})
        write_atomically(target / "prediction.md", text)
    return 0


def small_and_large(table: pd.DataFrame, held_out: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs at their best rates that are fitted, of at most half the size, and those within a factor 1.5 of it.

    All with the longest windows of the table: losses of other windows cannot be compared with them.
    """
    best = at_best_rates(table)
    best = best[best["train.context_length"] == best["train.context_length"].max()]
    ratio = best["params_non_embedding"].astype(float) / held_out
    return best[ratio <= 1 / 2], best[ratio.between(1 / 1.5, 1.5)]


def of_model(table: pd.DataFrame, kind: str, layers: int) -> pd.DataFrame:
    """The runs of one model."""
    return table[(table["kind"] == kind) & (table["model.n_layers"] == layers)]


def now() -> str:
    """Date and time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def predicted(rows: pd.DataFrame, params: float) -> list[dict[str, Any]]:
    """For each law and horizon the loss at so many parameters, nats per token, with its interval."""
    points = make_points(
        rows["loss"].to_numpy(float),
        params=rows["params_non_embedding"].to_numpy(float),
        tokens=rows["tokens"].to_numpy(float),
    )
    tokens = np.unique(points.variables["tokens"])
    found = []
    for name in LAWS:
        law = fit(points, name)
        at = law.predict(params=params, tokens=tokens)
        scatter = float(np.sqrt(np.sum(law.residuals**2) / max(len(points) - len(law.theta), 1)))
        low, high = (
            at.loss * np.exp(sign * np.hypot(np.log(end / at.loss), 1.96 * scatter))
            for sign, end in ((-1, at.low), (1, at.high))
        )
        found += [
            {"law": name, **dict(zip(("tokens", "loss", "low", "high"), map(float, values), strict=True))}
            | {"runs": len(points), "scatter": scatter, "constants": law.constants, "flags": list(law.flags)}
            for values in zip(tokens, at.loss, low, high, strict=True)
        ]
    return found


def compared(rows: list[dict[str, Any]], large: pd.DataFrame) -> list[dict[str, Any]]:
    """Each prediction with what was measured at that horizon: the mean over seeds, or None."""
    found = []
    for row in rows:
        measured = large.loc[np.isclose(large["tokens"].astype(float), row["tokens"], rtol=0.02), "loss"].astype(float)
        loss = float(measured.mean()) if len(measured) else None
        known = loss is not None and np.isfinite([row["low"], row["high"]]).all()
        held = bool(row["low"] <= loss <= row["high"]) if known else None
        kept = {key: row[key] for key in ("law", "tokens", "loss", "low", "high")}
        found.append(kept | {"measured": loss, "held": held})
    return found


def as_text(errors: dict[str, list[dict[str, Any]]]) -> str:
    """The table in Markdown."""
    lines = ["| model | tokens | law | predicted, nats/token | measured | error |", "|---|---|---|---|---|---|"]
    for name, rows in errors.items():
        for row in rows:
            cells = [name, f"{row['tokens'] / 1e6:.3g} M", row["law"]]
            cells.append(f"{row['loss']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
            if row["measured"] is None:
                cells += ["", ""]
            else:
                miss = f"{row['measured'] - row['loss']:+.3f}"
                cells += [f"{row['measured']:.3f}", f"{miss}, outside" if row["held"] is False else miss]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(guarded(main))
