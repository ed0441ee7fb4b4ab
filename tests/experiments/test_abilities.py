"""What families can do: the experiment runs and trains nothing twice, and every cell has its verdict."""

from __future__ import annotations

import json
from pathlib import Path

import experiment
import pytest

from seqjax.config import program_key
from seqjax.families import kind_of
from seqjax.sweeps.grid import read_sweep

SMALL = ["--train.steps", "2", "--optimizer.warmup-steps", "1", "--task.pairs", "3",
         "--task.items", "3", "--task.held-out", "8", "--train.batch-size", "2"]  # fmt: skip


@pytest.mark.slow
def test_it_runs_and_tells_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, sweep = experiment.load("abilities"), tmp_path / "tiny.yaml"
    sweep.write_text(f"""
base: {experiment.REPOSITORY}/configs/tasks/abilities.yaml
list: [{{model: {{family: gru, n_layers: 1, d_model: 8}}}}]
zip: {{task.kind: [recall, parity], task.length: [9, 12]}}
search: {{rates: [1e-3, 3e-3, 1e-2], extend: 0}}
""")
    assert experiment.run_here(monkeypatch, module, tmp_path, "--sweep", str(sweep), *SMALL) == 0
    record = json.loads((tmp_path / "report" / "results.json").read_text())
    cells = [(row["kind"], row["task"], row["published"], row["solves"], row["verdict"]) for row in record["rows"]]
    assert cells == [
        ("gru", "recall", False, "none", "as published"),
        ("gru", "parity", True, "none", "not as published"),
    ]
    assert all(row["state"] == 8 and len(row["accuracy"]) == 1 for row in record["rows"])
    text = (tmp_path / "report" / "abilities.md").read_text()
    assert (
        "| nonlinear | GRU | 8 |" in text and "parity: 0 of 1 cells as published; else GRU 8 (not as published)" in text
    )
    assert (tmp_path / "report" / "abilities.png").stat().st_size > 10_000
    drawn = (tmp_path / "report" / "abilities.svg").read_text()
    assert "training: T = 9, parity T = 12<" in drawn and "longer: T = 36, parity T = 48<" in drawn


def test_every_model_is_in_the_table_of_what_was_published() -> None:
    module, planned = experiment.load("abilities"), read_sweep(experiment.SWEEPS / "abilities.yaml").runs()
    kinds = {kind_of(run.config.model.family, vars(run.config.model)) for run in planned}
    assert len(kinds) == 13 and len(planned) == 13 * 6 * 2
    assert {kind for cells in module.PUBLISHED.values() for kind in cells} <= kinds
    assert kinds <= {*module.PUBLISHED["parity"]} and kinds - {"retention"} <= {*module.PUBLISHED["s5"]}
    assert len({program_key(run.config) for run in planned}) == 13 * 4


def test_a_cell_is_judged_by_all_its_seeds() -> None:
    module = experiment.load("abilities")
    for task, key, other in (("induction", "accuracy", "longer_accuracy"), ("parity", "longer_accuracy", "accuracy")):
        cell = {"task": task, "kind": "mamba2" if task == "induction" else "lstm", other: [0.2, 0.2]}
        for accuracy, verdict in (
            ([1.0, 0.96], "as published"),
            ([1.0, 0.5], "in part"),
            ([0.6, 0.5], "not as published"),
        ):
            assert module.judged(cell | {key: accuracy})["verdict"] == verdict
    none = {"task": "copying", "kind": "lstm", "longer_accuracy": [1.0], "accuracy": [1.0]}
    assert module.judged(none)["verdict"] == "not published" and module.judged(none)["holds"] == "all"
