"""Benchmarks: a table is of one machine and one kind of run, and torch's models are as large as ours."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment import REPOSITORY, load

from seqjax.errors import UserError
from seqjax.models import count_parameters


def test_rows_of_another_machine_or_setting_are_not_gone_on_with(tmp_path: Path) -> None:
    common = load("common")
    here, path = common.surroundings("torch") | {"repeats": 7}, tmp_path / "rows.json"
    assert common.begun(path, here) == {} and "torch" in here["versions"]
    path.write_text(json.dumps(here | {"date": "2020-01-01", "rows": [1]}))
    assert common.begun(path, here)["rows"] == [1]
    for name, other in (("repeats", 3), ("versions", here["versions"] | {"jax": "0.1"}), ("hardware", {})):
        with pytest.raises(UserError, match=f"another {name} .*--again"):
            common.begun(path, here | {name: other})


def test_rows_measured_again_take_the_place_of_the_old_and_others_stay(tmp_path: Path) -> None:
    common, path = load("common"), tmp_path / "record.json"
    here, turn = common.surroundings() | {"repeats": 7}, itertools.count()

    def measure(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"turn": next(turn)}

    def rows(names: str, again: bool = False) -> tuple[list[int], dict[str, int]]:
        new = [row["turn"] for row in common.measured(path, here, [{"name": n} for n in names], again, measure)]
        return new, {row["name"]: row["turn"] for row in json.loads(path.read_text())["rows"]}

    assert rows("abc") == ([0, 1, 2], {"a": 0, "b": 1, "c": 2})
    assert rows("cd") == ([3], {"a": 0, "b": 1, "c": 2, "d": 3})
    new, kept = rows("b", again=True)
    assert new == [4] and list(kept.items()) == [("a", 0), ("b", 4), ("c", 2), ("d", 3)]
    here["repeats"] = 3
    for names, again in (("e", False), ("b", True)):
        with pytest.raises(UserError, match="another repeats"):
            rows(names, again)
    assert rows("abcd", again=True) == ([5, 6, 7, 8], {"a": 5, "b": 6, "c": 7, "d": 8})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mingru", "minlstm", "rg_lru", "mamba2", "mlstm", "slstm", "gated_deltanet"])
def test_the_torch_code_beside_a_family_has_as_many_parameters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs torch")
    monkeypatch.syspath_prepend(REPOSITORY / "experiments" / "benchmarks")
    mixers = load("benchmarks/torch_mixers")
    pytest.importorskip(mixers.package_of(name), reason="needs the package with the torch code")
    step, models = (load(f"benchmarks/{file}") for file in ("train_step", "torch_models"))
    config = step.config_of(name, step.Shape(width=32, layers=2, batch=2, context=16), bias=name in mixers.BIASED)
    system = models.TorchSystem(config, 64, np.zeros((2, 17), np.int32), compiled=False)
    ours = count_parameters(config.model, 64, 16)["total"]
    assert sum(p.numel() for p in system.parameters) == ours and 0 < system.run(1) < 10
