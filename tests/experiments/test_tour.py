"""The notebook runs from its first cell to its last, on a small text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

TOUR = Path(__file__).parents[2] / "experiments" / "tour.ipynb"


@pytest.mark.slow
def test_every_cell_runs(small_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    cells = ["".join(cell["source"]) for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells[0].startswith("TEXT, TOKENIZER") and "STEPS, TOKENS, PLACE" in cells[0]
    shortened = f"TEXT, TOKENIZER = {str(small_text)!r}, 'bytes'\nSTEPS, TOKENS, PLACE = 10, 2e4, 'runs/tour'"
    names: dict[str, Any] = {}
    (of_transformers,) = re.findall(r'^ *{"model.family": "transformer".*\n', "".join(cells), re.MULTILINE)
    for cell in [shortened, *cells[1:]]:
        cell = cell.replace(of_transformers, "").replace('"sweep", ', '"sweep", "--workers", "1", ')  # less to compile
        exec(compile(cell, str(TOUR), "exec"), names)
    assert len(names["table"]) == 3 and set(names["table"]["status"]) == {"finished"}
    assert "<table" in names["lstm"]._repr_html_()
    assert not json.loads(TOUR.read_text())["cells"][1]["outputs"]
