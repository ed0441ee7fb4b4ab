"""What the README claims is what was recorded, and what was recorded meets the marks set beforehand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from seqjax.config import run_id
from seqjax.overlay import load_config

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "experiments" / "results" / "baselines"
ROWS = json.loads((RESULTS / "results.json").read_text())


def test_the_readme_shows_the_recorded_table() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    for line in (RESULTS / "table.md").read_text().splitlines():
        if line.startswith("|"):
            assert line in readme


@pytest.mark.parametrize("name", ROWS)
def test_recorded_runs_are_of_the_shipped_configs(name: str) -> None:
    assert ROWS[name]["run_id"] == run_id(load_config(REPOSITORY / "configs" / f"{name}.yaml"))
    assert ROWS[name]["status"] == "finished"


def test_nanogpt_reaches_its_published_loss() -> None:
    assert ROWS["published/nanogpt-cpu"]["validation"]["loss"] <= 1.88


@pytest.mark.parametrize("name", ["english/lstm", "english/transformer", "published/wikitext2-lstm"])
def test_models_beat_the_compressor(name: str) -> None:
    assert ROWS[name]["validation"]["bits_per_byte"] < ROWS[name]["bz2_bits_per_byte"]


def test_every_path_in_the_readme_exists() -> None:
    words = (REPOSITORY / "README.md").read_text().replace("`", " ").replace("(", " ").replace(")", " ").split()
    for word in words:
        if word.startswith(("configs/", "experiments/", "seqjax/", "tests/")):
            assert (REPOSITORY / word.rstrip(".,;:")).exists(), word


BUNDLES = json.loads((REPOSITORY / "experiments" / "results" / "bundles" / "results.json").read_text())


def test_the_readme_shows_the_recorded_benchmark_of_bundles() -> None:
    spec = importlib.util.spec_from_file_location("bundles", REPOSITORY / "experiments" / "bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.as_text(BUNDLES) in (REPOSITORY / "README.md").read_text()


def test_bundles_in_the_pool_beat_torch_at_the_smallest_size() -> None:
    rows = [row for row in BUNDLES["rows"] if row.get("torch")]
    smallest = min(rows, key=lambda row: (row["width"], row["a"]))
    assert smallest["torch"] > smallest["d"] < smallest["a"]
