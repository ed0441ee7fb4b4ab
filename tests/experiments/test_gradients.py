"""Vanishing gradients: the experiment runs, and what is said of it is what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import experiment
import numpy as np
import pytest

RECORDED = experiment.RESULTS / "gradients" / "results.json"
README = experiment.REPOSITORY / "experiments" / "README.md"


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = experiment.load("gradients")
    monkeypatch.setattr(module, "WINDOWS", 4)
    words = ["--only.model.family", "[elman, transformer]", "--seeds", "2", "--train.steps", "3"]
    words += ["--train.context-length", "12", "--model.d-model", "8"]
    assert experiment.run_here(monkeypatch, module, tmp_path, *words) == 0
    assert (tmp_path / "report" / "gradients.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "report" / "results.json").read_text())["families"]
    for family, array in (("elman", "h"), ("transformer", "x")):
        for when in ("initial", "trained"):
            norms_SxT = np.array(found[family][when][array])
            assert norms_SxT.shape == (2, 12) and (norms_SxT > 0).all() and np.ptp(norms_SxT[:, 1]) > 0
    np.testing.assert_allclose(found["elman"]["bound"]["initial"], 1, rtol=1e-4)  # orthogonal
    assert 0 < found["elman"]["mean_slope"][0] < 1


def test_what_is_said_was_recorded() -> None:
    module, record = experiment.load("gradients"), json.loads(RECORDED.read_text())
    assert module.as_table(record["families"]) in README.read_text()
    assert module.in_words(record["families"]) in module.__doc__
    assert all(len(norms) == 3 for norms in record["families"]["lstm"]["trained"].values())


def test_recorded_norms_of_the_elman_network_keep_the_bound() -> None:
    """Summed over t: a step further back there is one t less, and no norm has grown by more than s."""
    found = json.loads(RECORDED.read_text())["families"]["elman"]
    for when in ("initial", "trained"):
        for norms_T, s in zip(found[when]["h"], found["bound"][when], strict=True):
            sums_T = np.array(norms_T) * np.arange(len(norms_T), 0, -1)
            assert (sums_T[1:] <= 1.001 * s * sums_T[:-1] + 1e-30).all()
