"""Sequence to sequence: numbers in words to digits (built in), and German to English on Multi30k.

    python experiments/translation.py                        # numbers: 4 minutes on two CPU cores
    python experiments/translation.py --corpus multi30k      # about two hours; stop it and start it again
    python experiments/translation.py --corpus multi30k --only multi30k-gru
    python experiments/translation.py --only numbers-gru --translate "forty one thousand and six"

Each line of the table is one config of configs/tasks, trained by the shared train step with label smoothing and
searched with a beam of 5. BLEU is sacrebleu's (13a tokens, capitals not told apart) with its interval over sentences.
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
import json
import math
import sys
from pathlib import Path
from typing import Any

from common import writable

import seqjax
from seqjax import runs
from seqjax.config import named_run_id
from seqjax.errors import UserError
from seqjax.host import disk
from seqjax.host.guard import guarded
from seqjax.host.numerics import pinned
from seqjax.host.wording import with_error
from seqjax.plots.style import save
from seqjax.plots.translation import draw_translation
from seqjax.runs.config_file import load_as
from seqjax.tasks.translation import Config, Translation, load, make_task, translate
from seqjax.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "translation"
CONFIGS = {
    "numbers": ("numbers-transformer", "numbers-gru", "numbers-lstm", "numbers-gru-cho"),
    "multi30k": ("multi30k-transformer", "multi30k-gru", "multi30k-gru-cho"),
}
PUBLISHED = {  # test BLEU of the tutorial notebooks of B. Trevett, words of spaCy, no beam
    "numbers": {},
    "multi30k": {
        "published Transformer, 9.0 M": 36.52,
        "published GRU with attention, 20.5 M": 28.3,
        "published GRU, 14.2 M": 20.6,
    },
}


@pinned()
def main() -> int:
    """Train what is missing, then write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CONFIGS, default="numbers", help="which pairs [numbers]")
    parser.add_argument("--only", nargs="+", metavar="CONFIG", help="some of the configs alone")
    parser.add_argument(
        "--translate", nargs="+", metavar="TEXT", help="translate these with the trained models, and stop"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "translation", help="where the runs go")
    parser.add_argument("--report", type=Path, default=ROOT / "report" / "translation", help="for table and figure")
    parser.add_argument("--record", action="store_true", help=f"write to {RESULTS.relative_to(ROOT)} instead")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
                        help="change a key of every config, such as train.steps 100")  # fmt: skip
    options = parser.parse_args()
    names = options.only or CONFIGS[options.corpus]
    if unknown := set(names) - set(CONFIGS[options.corpus]):
        raise UserError(f"--only {unknown.pop()}: allowed: {', '.join(CONFIGS[options.corpus])}")
    if options.translate:
        for name in names:
            for line in answers(name, options.runs, dict(options.set), options.translate):
                print(f"{name}: {line}")
        return 0
    for name in names:  # a mistake is said before anything is trained
        load_as(Config, ROOT / "configs" / "tasks" / f"{name}.yaml", dict(options.set))
    target = writable((RESULTS if options.record else options.report) / options.corpus)
    path = target / "results.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        rows[name] = row(name, options.runs, dict(options.set))
        target.mkdir(parents=True, exist_ok=True)
        rows = {name: rows[name] for name in CONFIGS[options.corpus] if name in rows}
        disk.write_json(path, rows)
        disk.write_atomically(target / "table.md", table(rows))
    if tested := {name: found for name, found in rows.items() if "test" in found}:
        made = draw_translation(tested, PUBLISHED[options.corpus], "bleu" if options.corpus == "multi30k" else "exact")
        for kind in ("svg", "png"):
            save(made, target / f"translation.{kind}")
    print(table(rows))
    print(f"table, figure and results.json: {target}")
    return 0


def trained(name: str, folder: Path, options: dict[str, str]) -> tuple[Translation, dict[str, Any], Path]:
    """Train a config to its end, or read its finished run."""
    config = load_as(Config, ROOT / "configs" / "tasks" / f"{name}.yaml", options)
    place = folder / named_run_id(name, config)
    print(f"{name}: {place}", file=sys.stderr)
    translation = load(config)
    result = train(config, place, task=make_task(config, translation), wandb_mode="disabled")
    if result["status"] != "finished":
        raise UserError(f"{place}: the run has {result['status']} at step {result['steps']}")
    return translation, result, place


def answers(name: str, folder: Path, options: dict[str, str], texts: list[str]) -> list[str]:
    """Each text's translation by a trained config."""
    translation, _, place = trained(name, folder, options)
    task = translation.config.task
    texts = [text.lower() for text in texts] if task.lowercase else texts
    params = seqjax.open(place, checkpoint="best", data=translation).params
    return translate(translation, params, texts, task.beam, task.length_penalty)


def row(name: str, folder: Path, options: dict[str, str]) -> dict[str, Any]:
    """What the table needs of a config's run."""
    _, result, place = trained(name, folder, options)
    for found in (result["test"]["greedy"], result["test"]["beam"]) if "test" in result else ():
        found["exact_95"] = wilson(found["exact"], result["test"]["sentences"])
    curve = [(r["step"], r["validation_loss"]) for r in runs.read_curve(place)]
    return {"run_id": place.name, **result, "parameters": result["parameters"]["total"], "curve": curve}


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of so many (Wilson 1927, JASA 22(158))."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(rows: dict[str, Any]) -> str:
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
