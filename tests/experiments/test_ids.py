"""The runs of the experiments keep their ids, so that what was trained before is found again."""

from __future__ import annotations

import hashlib

import pytest
from experiment import SWEEPS

from seqjax.sweeps.grid import read_sweep

RECORDED = {  # sweep -> number of its runs, and the start of the sha256 of their sorted digests
    "baselines": (4, "7b819d033f"),
    "batch-size": (98, "8bbd0c081e"),
    "generation": (15, "72cd906a75"),
    "gradients": (12, "78b06d9203"),
    "lines": (3, "7de0e228bd"),
    "recipe": (30, "a2fe62e919"),
    "recipe-rates": (20, "e6d1539bba"),
    "sentiment": (102, "c5e4998b9b"),
    "sentiment-rates": (12, "9425a18634"),
    "size-data": (96, "6288f01149"),
    "steering": (33, "259e238ca3"),
    "translation-multi30k": (3, "79c2a845e5"),
    "translation-numbers": (4, "48325fa270"),
    "truncation": (78, "4147889471"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_runs_of_a_sweep_have_the_ids_they_were_recorded_with(name: str) -> None:
    digests = sorted(run.run_id.rpartition("-")[2] for run in read_sweep(SWEEPS / f"{name}.yaml").runs())
    assert (len(digests), hashlib.sha256(" ".join(digests).encode()).hexdigest()[:10]) == RECORDED[name]
