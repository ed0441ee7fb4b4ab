"""Generation: samples of every family by temperature from a prompt and from one character, and lines by author.

    python experiments/generation.py                     # about 10 minutes on two CPU cores; stop and start it at will
    python experiments/generation.py --record            # and keep numbers, samples and figure

Many to many: five small models of characters (configs/sweeps/generation.yaml, three seeds) go on with a prompt. One to
many: the same models from one character; and an LSTM of words (configs/sweeps/lines.yaml, three seeds) whose first
element is an author, which writes twelve words of Shakespeare, Milton or the King James Bible. Judges that only count
the words, or pairs of them, of each author say whose line it is. What was found here is in
experiments/results/generation/results.json and samples.md beside it; expected at temperature 0.8: 77.9 ± 5.7 % of
the LSTM's words occur in the training text, 81.3 ± 11.5 % of the lines are judged to be of the author
asked for (real ones 80.0 %).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import SWEEPS, results, run, sweep_table

import seqjax
from seqjax.data import load_corpus
from seqjax.data.lines import AUTHORS, split_words
from seqjax.errors import UserError
from seqjax.host.guard import guarded
from seqjax.host.wording import with_error
from seqjax.laws.intervals import t_interval
from seqjax.plots.generation import draw_generation
from seqjax.tasks.lines import Judge, make_judges, make_model, share_right, write_lines
from seqjax.trained.opened import OpenRun

LINES = SWEEPS / "lines.yaml"
TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.3)
PROMPT, FIRST = "And it came to pass ", "T"
SAMPLES, CHARACTERS = 16, 211  # of a run and a temperature, from the prompt; at temperature 0 all are one
SHOWN = 120  # characters of a sample in the table
PER_AUTHOR = 100  # lines of a run and a temperature
FAMILIES = ("window", "elman", "gru", "lstm", "transformer")


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the models of lines too; sample, judge, write the table."""
    _, lines = sweep_table(LINES, folder.parent)
    if lines is None:
        raise UserError(f"{LINES.name}: was stopped; start the same command again")
    record = {
        "prompt": PROMPT,
        "first": FIRST,
        "many to many": continue_prompts(table, folder),
        "one to many": write_by_author(lines, folder.parent / LINES.stem),
    }
    print(f"{samples_table(record)}\n{summary(record)}")
    return record, {"samples.md": samples_table(record), "generation": figure_of(record)}


def continue_prompts(table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Of each family and temperature the samples of the first seed, and the share of known words of every seed."""
    corpus = load_corpus("english")
    known = {word for document in corpus.documents("train") for word in words_of(_text(document))}
    families: dict[str, Any] = {}
    table = table.sort_values("train.seed", kind="stable")
    for run_id, result in zip(table["run_id"], results(table, folder), strict=True):
        opened, loss = seqjax.open(folder / run_id), result["validation"]["loss"]
        own = families.setdefault(opened.config.model.family, {"loss": [], "by temperature": [], "parameters": []})
        own["loss"].append(float(loss))
        own["parameters"] = result["parameters"]["total"]
        for number, temperature in enumerate(TEMPERATURES):
            texts = _samples(opened, PROMPT, SAMPLES if temperature else 1, temperature)
            share = known_share([text[len(PROMPT) :].rpartition(" ")[0] for text in texts], known)
            if len(own["by temperature"]) == number:
                from_first = _samples(opened, FIRST, 1, temperature)[0]
                shown = {"from prompt": texts[0], "from first": from_first, "known words": []}
                own["by temperature"].append({"temperature": temperature, **shown})
            own["by temperature"][number]["known words"].append(share)
        print(f"{run_id}: {loss:.3f} nats per character", file=sys.stderr, flush=True)
    held_out = [_text(document) for document in corpus.documents("validation")]
    return {"families": families, "known words, held out": known_share(held_out, known)}


def _text(document: Any) -> str:
    return b"".join(document.chunks()).decode()


def words_of(text: str) -> list[str]:
    """The words, without the marks."""
    return [word for word in split_words(text) if word[0].isalpha()]


def known_share(texts: Sequence[str], known: set[str]) -> float:
    """The share of running words that occur in the training text."""
    words = [word for text in texts for word in words_of(text)]
    return sum(word in known for word in words) / max(len(words), 1)


def _samples(opened: OpenRun, start: str, count: int, temperature: float) -> list[str]:
    """``count`` texts that begin with ``start``."""
    seed = opened.config.train.seed
    return opened.sample(start, CHARACTERS, samples=count, seed=seed, temperature=temperature)


def write_by_author(table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Lines by author and temperature of every seed, judged; and the judges on real lines of works they never saw."""
    opened = [seqjax.open(folder / run_id, checkpoint="best") for run_id in table["run_id"]]
    data, width = opened[0].data, opened[0].config.task.width
    vocabulary, validation = data.vocabulary, data.validation
    judges, model = make_judges(data.train, vocabulary), make_model(opened[0].config, vocabulary)
    found: list[dict[str, Any]] = [{"temperature": t, "lines": {}, "right": {}} for t in TEMPERATURES]
    kept = []
    for one, result in zip(opened, results(table, folder), strict=True):
        one.data = data
        kept.append({key: result[key] for key in ("status", "held_out", "seconds")})
        kept[-1]["parameters"] = result["parameters"]["total"]
        write = partial(write_lines, model, one.params)
        for row in found:
            count, temperature = PER_AUTHOR if row["temperature"] else 1, row["temperature"]
            written = {
                author: write(vocabulary.author(author), count, width, temperature, one.config.train.seed)
                for author in AUTHORS
            }
            for author, lines in written.items():
                row["lines"].setdefault(author, [vocabulary.text(line) for line in lines[:3]])
            for name, right in judged(judges, written).items():
                row["right"].setdefault(name, []).append(right)
    real = {author: lines[:, 1:] for author, lines in validation.items()}
    return {
        "runs": kept,
        "lines of an author": PER_AUTHOR,
        "by temperature": found,
        "held out": judged(judges, real),
        "lines held out": {author: len(lines) for author, lines in real.items()},
    }


def judged(judges: dict[str, Judge], lines: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Of each judge the share of lines given to the right author, by author, and "mean"."""
    found = {}
    for name, judge in judges.items():
        by_author = {author: share_right(judge, own, author) for author, own in lines.items()}
        found[name] = {**by_author, "mean": float(np.mean(list(by_author.values())))}
    return found


def figure_of(record: dict[str, Any]) -> Any:
    """Known words by family, and lines given to the author asked for."""
    many, one = record["many to many"], record["one to many"]
    words = {
        family: [(row["temperature"], *t_interval(row["known words"])) for row in own["by temperature"]]
        for family, own in _ordered(many["families"])
    }
    right = {
        name: [
            (row["temperature"], *t_interval([seed["mean"] for seed in row["right"][name]]))
            for row in one["by temperature"]
        ]
        for name in one["held out"]
    }
    return draw_generation(
        words, many["known words, held out"], right, {name: own["mean"] for name, own in one["held out"].items()}
    )


def _ordered(families: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(family, families[family]) for family in FAMILIES if family in families]


def summary(record: dict[str, Any]) -> str:
    """Two Markdown tables: known words by family, and lines given to the author asked for, by temperature."""
    many, one = record["many to many"], record["one to many"]
    temperatures = [row["temperature"] for row in one["by temperature"]]
    lines = [
        "| words that occur in the training text (%), by temperature | nats/character | "
        + " | ".join(f"{t:g}" for t in temperatures) + " |",
        "|---|---|" + "---|" * len(temperatures),
    ]  # fmt: skip
    for family, own in _ordered(many["families"]):
        cells = [_percent(row["known words"]) for row in own["by temperature"]]
        lines.append(f"| {family} | {_interval(own['loss'], 3)} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Of the words of held-out text {100 * many['known words, held out']:.1f} % occur in the training text.",
        "",
        "| lines given to the author asked for (%), by temperature | real held-out lines | "
        + " | ".join(f"{t:g}" for t in temperatures) + " |",
        "|---|---|" + "---|" * len(temperatures),
    ]  # fmt: skip
    for name, own in one["held out"].items():
        cells = [_percent([seed["mean"] for seed in row["right"][name]]) for row in one["by temperature"]]
        real = f"{100 * own['mean']:.1f} ± {100 * half_width(own, one['lines held out']):.1f}"
        lines.append(f"| judged by {name} | {real} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def half_width(own: dict[str, float], counts: dict[str, int]) -> float:
    """Half the 95 % interval of a mean over the authors of shares of independent lines: 1.96 standard errors."""
    variance = sum(own[author] * (1 - own[author]) / count for author, count in counts.items())
    return 1.96 * variance**0.5 / len(counts)


def _percent(shares: Sequence[float]) -> str:
    return _interval([100 * share for share in shares], 1)


def _interval(values: Sequence[float], digits: int) -> str:
    mean, half = t_interval(values)
    return with_error(mean, half, digits)


def samples_table(record: dict[str, Any]) -> str:
    """The samples of the first seed, as Markdown."""
    lines = ["| family | temperature | from a prompt (many to many) | from one character (one to many) |"]
    lines.append("|---|---|---|---|")
    for family, own in _ordered(record["many to many"]["families"]):
        for row in own["by temperature"]:
            start, first = _cell(row["from prompt"]), _cell(row["from first"])
            lines.append(f"| {family} | {row['temperature']:g} | {start} | {first} |")
    lines += ["", "| author | temperature | lines (one to many, from a class) |", "|---|---|---|"]
    for author in AUTHORS:
        for row in record["one to many"]["by temperature"]:
            written = " / ".join(_cell(line) for line in row["lines"][author])
            lines.append(f"| {author} | {row['temperature']:g} | {written} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text in one cell of a table: line ends as ↵, and what Markdown would read escaped."""
    text = text[:SHOWN]
    for mark, instead in (("|", "\\|"), ("*", "\\*"), ("_", "\\_"), ("<", "&lt;"), ("\n", "↵")):
        text = text.replace(mark, instead)
    return text


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("generation", "generation", __doc__, analyse)))
