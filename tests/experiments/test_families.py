"""Figure 7 with twelve families, from made-up results: the recorded LSTMs, each family with a loss of its own."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import experiment
import pandas as pd
import pytest

from seqjax.comparison import measured
from seqjax.comparison.page import write_report
from seqjax.families import THROUGH_TIME, by_way, kind_of, label_of, parts_of, way_of
from seqjax.sweeps.grid import read_sweep
from seqjax.sweeps.search import foreseen

PRESET = experiment.REPOSITORY / "configs" / "figure7" / "families.yaml"
RECORDED = experiment.RESULTS / "figure7" / "laptop"


def planned_kinds() -> list[str]:
    runs = read_sweep(PRESET).runs()
    return list(dict.fromkeys(kind_of(run.config.model.family, vars(run.config.model)) for run in runs))


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of `seqjax.comparison.collect`, with all kinds of the preset but GPT-2's form."""
    place = tmp_path_factory.mktemp("collected")
    shutil.copyfile(RECORDED / "where.json", place / "where.json")
    table = pd.read_csv(RECORDED / "runs.csv")
    table = table[table["kind"] != "transformer gpt2"]
    curves, search = (json.loads((RECORDED / f"{name}.json").read_text()) for name in ("curves", "search"))
    of_runs, chains, characters = measured.load(RECORDED / "positions.npz")
    of_runs = [run for run in of_runs if run.run_id in set(table["run_id"])]
    lstm, tables = table[table["kind"] == "lstm"], [table]
    names = set(lstm["run_id"])
    search = [curve for curve in search if curve["trials"][0]["runs"][0] in set(table["run_id"])]
    text = json.dumps([curve for curve in search if curve["trials"][0]["runs"][0] in names])
    measured_ = list(of_runs)
    for number, kind in enumerate(kind for kind in planned_kinds() if kind not in ("lstm", "transformer modern")):
        family, form = parts_of(kind)
        name, factor = f"{kind.replace(' ', '_')}-", 0.99 ** (number + 1)
        rows = lstm.assign(**{"run_id": name + lstm["run_id"], "kind": kind, "model.family": family})
        rows["trunk"] = name + lstm["trunk"]
        tables.append(rows.assign(loss=rows["loss"] * factor, flops_exact=rows["flops_exact"] * 1.1**number))
        curves |= {name + run: [curves[run][0], [y * factor for y in curves[run][1]]] for run in names & {*curves}}
        own = text.replace('"label": "lstm-', f'"label": "{family}-').replace('"lstm-', f'"{name}lstm-')
        search += json.loads(own)
        measured_ += [
            dataclasses.replace(run, run_id=name + run.run_id, family=family, form=form, loss_CxP=run.loss_CxP * factor)
            for run in of_runs
            if run.run_id in names
        ]
    pd.concat(tables).to_csv(place / "runs.csv", index=False)
    (place / "curves.json").write_text(json.dumps(curves))
    (place / "search.json").write_text(json.dumps(search))
    measured.save(place / "positions.npz", measured_, chains, characters)
    return place


@pytest.mark.slow
def test_the_page_groups_twelve_families_and_names_each(collected: Path, tmp_path: Path) -> None:
    write_report(collected, tmp_path, "twelve")
    page, kinds = (tmp_path / "index.html").read_text(), planned_kinds()
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,')
    section = page[page.index("<h2>Families</h2>") : page.index("<h2>Claims</h2>")]
    rows = re.findall(r"<tr><td>([a-z ]+)</td><td>([^<]+)</td>", section)
    assert rows == [(way_of(kind), label_of(kind)) for kind in by_way(kinds)] and len(rows) == 12
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=THROUGH_TIME.index)
    table = (tmp_path / "families.md").read_text().splitlines()
    assert [tuple(line.split(" | ")[:2]) for line in table[2:]] == [(f"| {way}", name) for way, name in rows]
    for name in ("figure7", "families", "compute", "time"):
        drawn = (tmp_path / f"{name}.svg").read_text()
        for kind in kinds:
            assert f">{label_of(kind)}" in drawn, (name, kind)


def test_the_families_of_today_differ_by_the_mixer_alone() -> None:
    runs = foreseen(read_sweep(PRESET), lambda _: None)
    models = {run.config.model for run in runs}
    assert len(planned_kinds()) == 12 and {way_of(kind) for kind in planned_kinds()} == {*THROUGH_TIME} - {"window"}
    stacked = [model for model in models if hasattr(model, "block")]
    assert len(stacked) == 2 * 8 and {model.block for model in stacked} == {"common"}
    assert {model.mlp_kind for model in stacked} == {"swiglu"} and {model.n_layers for model in stacked} == {2}
    data = {(run.config.data.tokenizer, run.config.train.context_length) for run in runs}
    assert data == {("bpe-512", 256)}
