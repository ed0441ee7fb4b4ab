"""The experiment of Figure 7: from a sweep file to its report, and that what was recorded can be had again."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import experiment
import numpy as np
import pandas as pd
import pytest
from quick import quick

from seqjax.comparison.claims import CLAIMS
from seqjax.comparison.judging import judge_forms
from seqjax.comparison.material import read_material
from seqjax.comparison.verdicts import claims_json
from seqjax.errors import UserError
from seqjax.laws.run_rows import at_best_rates
from seqjax.runs.config_file import validate
from seqjax.runs.tree import options_tree
from seqjax.sweeps.table import read_table

RECORDED = experiment.RESULTS / "figure7"
TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and the report of the tiny preset."""
    place = tmp_path_factory.mktemp("figure7")
    assert run(place) == 0
    return place


def run(place: Path, **replaced: Any) -> int:
    """Trained in this process and measured by position in one worker; functions of the experiment may be replaced."""
    module = experiment.load("rnn_vs_transformer")
    with pytest.MonkeyPatch.context() as patch:
        for name, function in replaced.items():
            patch.setattr(module, name, function)
        return experiment.run_here(patch, module, place, "--preset", str(TINY), "--workers", "1")


@pytest.mark.slow
def test_the_report_is_one_file_with_every_claim(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    for claim in CLAIMS:
        assert claim.says.replace("'", "&#39;") in page
    timed = "Wall clock" in page  # not where other tests ran beside these runs
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,') >= 5 + timed
    assert page.count('srcset="data:image/svg+xml;base64,') == 1  # Figure 7 with its panels stacked
    caption = re.search(r'class="card stacks">.*?<figcaption>([^<]+)', page, re.DOTALL)
    assert caption and not re.search(r"\b(left|right|above|below)\b", caption[1], re.IGNORECASE)  # true in both layouts
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "prefers-color-scheme: dark" in page
    for name in re.findall(r'href="([^"]+)"', page):
        assert (finished / "report" / name).is_file(), name


@pytest.mark.slow
def test_every_run_is_in_the_table_diverged_ones_too(finished: Path) -> None:
    states = pd.read_csv(finished / "report" / "runs.csv")["status"].value_counts()
    assert set(states.index) == {"finished", "diverged"}
    assert states.sum() == 24  # six models, three rates, and a second seed at the best of them
    page = (finished / "report" / "index.html").read_text()
    assert page.count('<td class="n">diverged</td>') == states["diverged"]


@pytest.mark.slow
def test_chosen_runs_have_their_loss_by_position_with_both_seeds(finished: Path) -> None:
    material = read_material(finished / "runs" / "tiny" / "collected", draws=50)
    assert len(material.chosen) == 8  # two families, two sizes, two seeds
    assert len(material.comparison.models) == 6  # and the Transformers of 8 tokens
    assert material.comparison.seeds == 2
    assert np.isfinite(material.comparison.mean_SxM[:, material.comparison.of("lstm", "transformer")]).all()


@pytest.mark.slow
def test_started_again_it_trains_nothing_and_collects_the_same(finished: Path) -> None:
    results = sorted((finished / "runs").rglob("result.json")) + sorted((finished / "runs").rglob("positions.npz"))
    of_runs = {path: path.stat().st_mtime_ns for path in results if path.parent.name != "collected"}
    collected = {path: path.read_bytes() for path in (finished / "runs" / "tiny" / "collected").iterdir()}
    assert run(finished, report=lambda *_: 0) == 0
    assert len(of_runs) > 24 and {path: path.stat().st_mtime_ns for path in of_runs} == of_runs
    assert {path: path.read_bytes() for path in collected} == collected


@pytest.mark.slow
def test_the_report_is_made_of_collected_files_alone(finished: Path, tmp_path: Path) -> None:
    """Of a copy of them, with nothing beside it. A page is drawn of such a folder in test_families.py."""
    shutil.copytree(finished / "runs" / "tiny" / "collected", tmp_path / "kept")
    material = read_material(tmp_path / "kept")
    again = json.loads(json.dumps(claims_json(judge_forms(material.comparison, CLAIMS), material.where)))
    assert again == json.loads((finished / "report" / "claims.json").read_text())


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder of collected results"):
        read_material(tmp_path)


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(UserError, match=r"--preset laptob: expected laptop, .*did you mean 'laptop'"):
        experiment.load("rnn_vs_transformer").find_preset("laptob")


@pytest.mark.slow
def test_presets_for_accelerators_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an accelerator, a network or a corpus. That all plans can be made: test_presets.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rnn_vs_transformer.py", "--preset", "h100", "--dry-run"])
        patch.setenv("JAX_PLATFORMS", "cpu")
        assert experiment.load("rnn_vs_transformer").main() == 0
    said = capsys.readouterr().out
    assert "FLOP (exact count)" in said
    assert "an assumption, not a measurement" in said


PRESETS = ("laptop", "workstation", "starved")


@pytest.mark.parametrize("preset", PRESETS)
def test_recorded_verdicts_follow_from_recorded_runs(preset: str) -> None:
    judged = judge_forms(read_material(RECORDED / preset).comparison, CLAIMS)
    recorded = json.loads((RECORDED / preset / "claims.json").read_text())["claims"]
    now = [(kind, row) for kind, rows in judged.items() for row in rows]
    assert [(kind, row.claim.name) for kind, row in now] == [(row["kind"], row["name"]) for row in recorded]
    for (_, row), then in zip(now, recorded, strict=True):
        assert (row.verdict, row.claim.tests) == (then["verdict"], then["tests"])
        if then["value"] is not None:
            assert row.value == pytest.approx(float(then["value"]), rel=1e-6)


@pytest.mark.parametrize("preset", quick(PRESETS, "laptop"))
def test_recorded_runs_are_those_of_the_preset(preset: str) -> None:
    """Every run of the shipped sweep file was trained, and nothing was left open."""
    from seqjax.sweeps.grid import read_sweep

    table = pd.read_csv(RECORDED / preset / "runs.csv")
    planned = {run.run_id for run in read_sweep(experiment.REPOSITORY / f"configs/figure7/{preset}.yaml").runs()}
    assert planned <= set(table["run_id"])
    assert set(table["status"]) <= {"finished", "diverged"}


def test_the_page_of_experiments_shows_the_recorded_verdicts() -> None:
    """A row for each claim, a column for each preset and form of the Transformer."""
    lines: dict[str, str] = {}
    for name in PRESETS:
        for row in json.loads((RECORDED / name / "claims.json").read_text())["claims"]:
            value, low, high = (math.nan if x is None else float(x) for x in (row["value"], *row["interval"]))
            interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})"
            found = "" if math.isnan(value) else f": {value:+.3f}{interval}"
            lines[row["says"]] = lines.get(row["says"], f"| {row['says']}") + f" | **{row['verdict']}**{found}"
    assert "\n".join(f"{line} |" for line in lines.values()) in (experiment.RESULTS.parent / "README.md").read_text()


def test_the_readme_answers_with_the_recorded_sentences() -> None:
    """The page of experiments has all of them, the README those of three on its figure and its map."""
    everything = " ".join((experiment.RESULTS.parent / "README.md").read_text().split())
    for preset in ("workstation", "laptop"):
        answer = json.loads((RECORDED / preset / "map.json").read_text())["answer"]
        assert all(sentence in everything for sentence in answer)
    paragraph = (
        (experiment.REPOSITORY / "README.md").read_text().partition("map-modern.svg)\n\n")[2].partition("\n\n")[0]
    )
    shown = [sentence for sentence in answer if sentence in " ".join(paragraph.split())]
    assert len(shown) == 3 and sum(map(len, shown)) + 2 == len(" ".join(paragraph.split()))
    assert all(any(form in sentence for sentence in shown) for form in ("modern", "gpt2"))


def test_the_readmes_first_figure_is_said_as_recorded() -> None:
    table = (RECORDED / "families" / "families.md").read_text()
    assert table in (experiment.RESULTS.parent / "README.md").read_text()
    readme = " ".join((experiment.REPOSITORY / "README.md").read_text().split())
    ahead = {cells[1]: cells[-1] for cells in (line.strip("| ").split(" | ") for line in table.splitlines()[2:])}
    for name in ("RG-LRU", "Transformer modern"):
        value, low, high = re.findall(r"\d\.\d+", ahead[name])
        assert f"by {value}" in readme and f"({low} to {high})" in readme


def test_recorded_copies_part_the_families() -> None:
    found = json.loads((experiment.RESULTS / "copies" / "results.json").read_text())
    late = {name: float(np.mean(loss[-16:])) for name, loss in found["copies"].items()}
    assert late["Transformer, 1 layer of 64"] < 0.05
    assert min(loss for name, loss in late.items() if "Transformer" not in name) > 1.0


@pytest.mark.slow
def test_a_table_without_times_has_a_report_without_times(tmp_path: Path) -> None:
    """As `workstation` was recorded: other work ran beside a part of its runs."""
    assert experiment.load("rnn_vs_transformer").report(RECORDED / "workstation", tmp_path) == 0
    page = (tmp_path / "index.html").read_text()
    assert "There is no map over seconds: not all runs have a time of training." in page
    assert "Wall clock" not in page and "Learning curves" in page and not (tmp_path / "time.svg").exists()
    assert (tmp_path / "map.json").read_text() == (RECORDED / "workstation" / "map.json").read_text()


TOLERANCE = 0.01
"""Nats per token. Another processor sums in another order, and training makes more of it: on one machine the same run
gives the same bits, and between builds of XLA 0.002 were seen."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "kind"), [("laptop", "lstm"), ("laptop", "transformer gpt2"), ("workstation", "lstm")]
)
def test_a_second_person_gets_the_same_losses(
    preset: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The smallest model of a kind once more for the shortest horizon, at its chosen rate, without a trunk.

    The Transformer's modern form is trained again in test_curves.py.
    """
    if preset == "workstation":  # of the corpus `novels`
        monkeypatch.setenv("SEQJAX_DATA", str(request.getfixturevalue("shared_data")))
    table = at_best_rates(read_table(RECORDED / preset / "runs.csv"))
    same = table[(table["kind"] == kind) & (table["train.seed"] == 0)]
    row = same.sort_values(["params_non_embedding", "tokens"]).iloc[0]
    keys = [key for key in table.columns if key.split(".")[0] in ("model", "data", "optimizer", "train", "evaluation")]
    values = {key: row[key] for key in keys if "." in key and not pd.isna(row[key])}
    config = validate(options_tree({key: getattr(value, "item", lambda v=value: v)() for key, value in values.items()}))
    result = experiment.trained_as_by_a_user(config, tmp_path / "run")
    assert result["run_id"] == row["run_id"]
    assert result["validation"]["loss"] == pytest.approx(row["loss"], abs=TOLERANCE)
