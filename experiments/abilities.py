"""What each family can do: recall against the size of the state, copying, induction, parity and S5.

    python experiments/abilities.py --no-measure --workers 1         # about an hour of one core (estimated); resumable
    python experiments/abilities.py --workers 8 --record             # on a GPU: eight workers share it
    python experiments/abilities.py --only.task.kind parity --only.model.family lstm                 # a minute
    python experiments/abilities.py --grid.train.seed "[0, 1]"       # two seeds
    python experiments/abilities.py --dry-run

The tasks are in seqjax/data/abilities.py; every batch is new. 13 models are trained for each task at one width, for
recall at two (configs/sweeps/abilities.yaml says how long, at which lengths). Each has two learning rates, and the one
with the lower held-out loss counts: as many tries for all. A model solves a task if 90 % of the answers are right, with
every seed: for parity and S5 in sequences four times as long as in training, since what is published of them is about
lengths that were not trained; for the others in sequences of training's length. Each cell of the table is held against
what was published of the family (`PUBLISHED`).

On an accelerator runs that differ in their task and rate alone train in one program: 52 programs of two or six runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
from common import results, run

from seqjax.data.abilities import KINDS
from seqjax.families import by_way, label_of, way_of
from seqjax.host.guard import guarded
from seqjax.laws.run_rows import at_best_rates
from seqjax.plots.abilities import draw_abilities
from seqjax.runs import read_config
from seqjax.tasks.abilities import LENGTHENED

ENOUGH = 0.9  # share of right answers of a model that solves a task
TRACKING = ("parity", "s5")  # solved if the longer sequences are
MQAR, BASED, MAMBA, GRIFFIN = "2312.04927", "2402.18668", "2312.00752", "2402.19427"
XLSTM, MINIMAL, ILLUSION, SIGNS = "2405.04517", "2410.01201", "2404.08819", "2411.12537"
CHOMSKY, SSD, PRODUCTS = "2207.02098", "2405.21060", "2502.10297"
STATE_BOUND = dict.fromkeys(("lstm", "gru", "elman", "slstm", "mingru", "rg_lru"), (False, BASED))
"""Recall takes a state that grows with the pairs."""
POSITIVE = {
    "mingru": (False, SIGNS),
    "rg_lru": (False, SIGNS),
    "retention": (False, SIGNS),
    "mamba2": (False, SIGNS),
    "mlstm": (False, XLSTM),
    "gated_deltanet": (False, SIGNS),
    "rg_lru with attention": (False, SIGNS),
    "transformer modern": (False, CHOMSKY),
}
"""Neither positive eigenvalues nor a constant depth can count modulo 2."""
PUBLISHED: dict[str, dict[str, tuple[bool, str]]] = {
    "recall": STATE_BOUND
    | {"transformer modern": (True, MQAR), "mamba2": (True, SSD), "mlstm": (True, XLSTM)}
    | {"gated_deltanet": (True, "2412.06464"), "rg_lru with attention": (True, BASED)},
    "copying": {"transformer modern": (True, GRIFFIN), "rg_lru with attention": (True, GRIFFIN)}
    | {"rg_lru": (True, GRIFFIN), "mingru": (True, MINIMAL), "mamba2": (True, MAMBA)},
    "induction": {"transformer modern": (True, MAMBA), "rg_lru with attention": (True, GRIFFIN)}
    | {"rg_lru": (True, GRIFFIN), "mamba2": (True, MAMBA)},
    "parity": POSITIVE
    | {"lstm": (True, CHOMSKY), "gru": (True, SIGNS), "elman": (True, CHOMSKY)}
    | {"slstm": (True, XLSTM), "gated_deltanet [-1, 1]": (True, SIGNS)},
    "s5": dict.fromkeys(POSITIVE, (False, ILLUSION))
    | dict.fromkeys(("lstm", "gru", "elman"), (True, ILLUSION))
    | {"slstm": (True, XLSTM), "gated_deltanet [-1, 1]": (False, PRODUCTS)},
}
"""Task -> kind -> whether the family solves it as published, and where (arXiv). For Mamba-2 partly what was published
of Mamba; for S5 what follows from the circuit class, and of LSTM and GRU what was published of nonlinear recurrences.
Nothing is known to be published for a kind that is missing."""


def analyse(table: pd.DataFrame, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row for each model, width and task at its best rate, with a verdict; the table as Markdown, and the figure."""
    best = at_best_rates(table)
    cells: dict[tuple[str, int, str], dict[str, Any]] = {}
    for run_id, kind, result in zip(best["run_id"], best["kind"], results(best, folder), strict=True):
        config = read_config(folder / run_id)
        task, model, found = config.task, config.model, result["validation"]
        cell = cells.setdefault(
            (kind, model.d_model, task.kind),
            {
                **{"kind": kind, "label": label_of(kind), "way": way_of(kind), "width": model.d_model},
                **{"task": task.kind, "parameters": result["parameters"]["total"]},
                **{"length": task.length, "steps": config.train.steps},
                **{"state": state_size(model, task.length), "rate": config.optimizer.learning_rate},
                "chance": found["chance"],
                **{name: [] for name in MEASURED},
            },
        )
        for name in MEASURED:
            cell[name].append(found[name])
    order = by_way(kind for kind, _, _ in cells)
    places = sorted(cells, key=lambda key: (order.index(key[0]), key[1], KINDS.index(key[2])))
    rows = [judged(cells[key]) for key in places]
    text = "\n".join([as_table(rows), as_published(rows), *in_words(rows)]) + "\n"
    print(text)
    tasks = [task for task in KINDS if any(row["task"] == task for row in rows)]
    return {"rows": rows}, {"abilities": draw_abilities(rows, tasks, LENGTHENED), "abilities.md": text}


MEASURED = ("accuracy", "exact", "longer_accuracy", "longer_exact", "loss")


def state_size(model: Any, length: int) -> int:
    """Numbers that the model keeps of a sequence; of attention the keys and values of all ``length`` tokens."""
    state = jax.eval_shape(lambda: model.zero_state(1, length))
    return sum(leaf.size for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))


def judged(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The cell with what is published, and its verdict.

    "solves" (`TRACKING`: the longer sequences), and "holds" for the longer ones: with all, some or none of the seeds.
    """
    published, source = PUBLISHED[cell["task"]].get(cell["kind"], (None, None))
    here, holds = (seeds(cell[name]) for name in ("accuracy", "longer_accuracy"))
    solves = holds if cell["task"] in TRACKING else here
    if published is None:
        verdict = "not published"
    elif solves == "some":
        verdict = "in part"
    else:
        verdict = "as published" if (solves == "all") == published else "not as published"
    return {**cell, "solves": solves, "holds": holds, "published": published, "source": source, "verdict": verdict}


def seeds(accuracies: Sequence[float]) -> str:
    """How many of the seeds solve it: all, some or none."""
    right = sum(accuracy >= ENOUGH for accuracy in accuracies)
    return "all" if right == len(accuracies) else "some" if right else "none"


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: accuracies in % at the length of training / four times it, bold where the model solves it; after it
    whether that is as published (=), not so (!), or in part (~)."""
    tasks = [task for task in KINDS if any(row["task"] == task for row in rows)]
    lines = [
        "| through time | model | D | parameters | state | " + " | ".join(tasks) + " |",
        "|---" * (5 + len(tasks)) + "|",
    ]
    for kind, width in dict.fromkeys((row["kind"], row["width"]) for row in rows):
        here = {row["task"]: row for row in rows if (row["kind"], row["width"]) == (kind, width)}
        first = next(iter(here.values()))
        cells = [as_cell(here[task]) if task in here else "-" for task in tasks]
        facts = (first["way"], first["label"], str(width), f"{first['parameters']:,}", f"{first['state']:,}")
        lines.append("| " + " | ".join([*facts, *cells]) + " |")
    return "\n".join(lines) + "\n"


def as_published(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: what was published of the models of these rows, with the number at arXiv."""
    tasks = [task for task in KINDS if any(row["task"] == task for row in rows)]
    lines = ["| published | " + " | ".join(tasks) + " |", "|---" * (1 + len(tasks)) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        found = [PUBLISHED[task].get(kind) for task in tasks]
        cells = ["-" if one is None else f"{'solves' if one[0] else 'fails'} ({one[1]})" for one in found]
        lines.append("| " + " | ".join([label_of(kind), *cells]) + " |")
    return "\n".join(lines) + "\n"


def as_cell(row: Mapping[str, Any]) -> str:
    """**100 / 52 =**: accuracies in %, means over seeds."""
    here, longer = (sum(row[name]) / len(row[name]) for name in ("accuracy", "longer_accuracy"))
    sign = {"as published": " =", "not as published": " !", "in part": " ~", "not published": ""}[row["verdict"]]
    text = f"{100 * here:.0f} / {100 * longer:.0f}"
    return (f"**{text}**" if row["solves"] == "all" else text) + sign


def in_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each task how many cells are as published, and which are not."""
    said = []
    for task in KINDS:
        known = [row for row in rows if row["task"] == task and row["published"] is not None]
        if not known:
            continue
        agree = sum(row["verdict"] == "as published" for row in known)
        others = [
            f"{row['label']} {row['width']} ({row['verdict']})" for row in known if row["verdict"] != "as published"
        ]
        said.append(
            f"{task}: {agree} of {len(known)} cells as published" + (f"; else {', '.join(others)}" if others else "")
        )
    return said


if __name__ == "__main__":
    sys.exit(guarded(lambda: run("abilities", "abilities", __doc__, analyse)))
