"""Sequence to sequence: numbers in words to digits (built in), and German to English on Multi30k.

    python experiments/translation.py                        # numbers: 4 minutes on two CPU cores
    python experiments/translation.py --corpus multi30k      # about two hours; stop it and start it again
    python experiments/translation.py --corpus multi30k --only.base multi30k-gru
    python experiments/translation.py --only.base numbers-gru --translate "forty one thousand and six"

Each line of the table is one config of configs/sweeps/translation-numbers.yaml or translation-multi30k.yaml, trained by
the shared train step with label smoothing and searched with a beam of 5. BLEU is sacrebleu's (13a tokens, capitals not
told apart) with its interval over sentences.
Expected, share of right answers among 1,000 numbers that were never seen, with its 95 % interval:

    Transformer 100.0 (99.6 to 100.0) %   GRU with attention 100.0 (99.6 to 100.0) %
    LSTM with attention 99.9 (99.4 to 100.0) %   GRU without attention 100.0 (99.6 to 100.0) %

Multi30k, 2016 test set, BLEU by greedy search and by a beam of 5, beside published 36.5 and 28.3 (greedy,
torchtext's BLEU on words; not like for like):

    Transformer 38.3 ± 1.6 and 39.5 ± 1.6   GRU with attention 33.5 ± 1.5 and 34.8 ± 1.5

The GRU without attention (multi30k-gru-cho) has not been trained there.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from common import base_of, results, run

import seqjax
from seqjax import runs
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.plots.translation import draw_translation
from seqjax.tasks.translation import translate

PUBLISHED = {  # test BLEU of the tutorial notebooks of B. Trevett, words of spaCy, no beam
    "numbers": {},
    "multi30k": {
        "published Transformer, 9.0 M": 36.52,
        "published GRU with attention, 20.5 M": 28.3,
        "published GRU, 14.2 M": 20.6,
    },
}


def main() -> int:
    """Train what is missing, then write table and figure."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--corpus", choices=PUBLISHED, default="numbers")
    parser.add_argument("--translate", nargs="+", metavar="TEXT", default=[])
    options, sys.argv[1:] = parser.parse_known_args()
    analysis = partial(analyse, corpus=options.corpus, texts=options.translate)
    corpus = options.corpus
    return run(f"translation/{corpus}", f"translation-{corpus}", __doc__, analysis, about=False)


def analyse(table: pd.DataFrame, folder: Path, corpus: str, texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the table needs of each config's run; and the translations of these texts."""
    rows = {}
    for run_id, result in zip(table["run_id"], results(table, folder), strict=True):
        name = base_of(folder, run_id).name
        rows[name] = row(folder / run_id, result)
        for line in answers(folder / run_id, texts) if texts else ():
            print(f"{name}: {line}")
    print(as_text(rows))
    files: dict[str, Any] = {"table.md": as_text(rows)}
    if tested := {name: found for name, found in rows.items() if "test" in found}:
        measure = "bleu" if corpus == "multi30k" else "exact"
        files["translation"] = draw_translation(tested, PUBLISHED[corpus], measure)
    return rows, files


def answers(place: Path, texts: list[str]) -> list[str]:
    """Each text's translation by a trained run."""
    opened = seqjax.open(place, checkpoint="best")
    task = opened.config.task
    texts = [text.lower() for text in texts] if task.lowercase else texts
    return translate(opened.data, opened.params, texts, task.beam, task.length_penalty)


def row(place: Path, result: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run."""
    for found in (result["test"]["greedy"], result["test"]["beam"]) if "test" in result else ():
        found["exact_95"] = wilson(found["exact"], result["test"]["sentences"])
    curve = [(r["step"], r["validation_loss"]) for r in runs.read_curve(place)]
    return {**result, "parameters": result["parameters"]["total"], "curve": curve}


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of so many (Wilson 1927, JASA 22(158))."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def as_text(rows: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| model | parameters | steps | minutes | test loss, nats/token | BLEU greedy | BLEU beam | exact, beam |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        test = found.get("test")
        if test is None:
            minutes = found["seconds"] / 60
            lines.append(
                f"| {name} | {found['parameters']:,} | {found['steps']:,} | {minutes:.0f} | no test set | | | |"
            )
            continue
        low, high = test["beam"]["exact_95"]
        lines.append(
            f"| {name} | {found['parameters']:,} | {found['steps']:,} | {found['seconds'] / 60:.0f} | "
            f"{test['loss']:.3f} | {with_error(test['greedy']['bleu'], test['greedy']['bleu_95'], 1)} | "
            f"{with_error(test['beam']['bleu'], test['beam']['bleu_95'], 1)} | "
            f"{100 * test['beam']['exact']:.1f} ({100 * low:.1f} to {100 * high:.1f}) % |"
        )
    last = max(rows.values(), key=lambda found: found["ended"])
    hardware, versions = last["hardware"], last["versions"]
    lines += [
        "",
        f"{hardware['processor']}, {hardware['cores']} cores, jax {versions['jax']}, {last['ended'][:10]}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guarded(main))
