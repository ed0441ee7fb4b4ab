"""`seqjax positions` of a sweep: the chosen rates only, and no law that the losses do not determine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import put, put_diverged

from seqjax.cli import main
from seqjax.commands.positions import _chosen
from seqjax.errors import UserError


def test_a_sweep_shows_its_chosen_rates(make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, figure, at = tmp_path / "runs" / "s", tmp_path / "p.png", np.arange(1.0, 65.0)
    for family, alpha, noise in (("lstm", 0.5, 0.01), ("gru", 0.0, 0.2)):
        for rate, offset in ((1e-3, 2.2), (3e-3, 2.0), (1e-2, 2.1)):
            loss = offset + 2.0 * at**-alpha * np.exp(noise * np.random.default_rng(0).standard_normal(64))
            config = make_config(family, **{"optimizer.learning_rate": rate})
            put(folder, config, float(loss.mean()), by_position=loss.tolist(), by_position_se=[0.01] * 64)
    assert main(["positions", str(folder), "--bootstrap", "40", "--plot", str(figure)]) == 0
    printed = capsys.readouterr()
    assert "left out: 4 runs at other learning rates" in printed.err
    assert printed.out.count("  law ") == 2 and printed.out.count("/ T^0.") == 1
    assert printed.out.count("not determined by these losses") == 1  # of alpha = 0
    assert figure.is_file() and max(map(len, printed.out.splitlines())) <= 80
    assert main(["positions", *map(str, folder.glob("lstm*")), "--bootstrap", "0"]) == 0
    assert capsys.readouterr().out.count("  law ") == 3  # all that are named one by one
    assert main(["positions", str(folder), "--bootstrap", "0", "--where", 'family == "gru" and lr < 2e-3']) == 0
    printed = capsys.readouterr()
    assert printed.out.count("  law ") == 1 and printed.out.startswith("gru") and "left out" not in printed.err
    assert main(["positions", str(folder), "--where", 'family == "elman"']) == 2
    assert "is true for no row of the runs with losses by position" in capsys.readouterr().err


def test_a_rate_at_which_a_seed_diverged_is_not_shown(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(rate: float, seed: int) -> Any:
        return make_config("lstm", **{"optimizer.learning_rate": rate, "train.seed": seed})

    for rate, seed, loss in ((1e-3, 0, 3.0), (1e-3, 1, 3.0), (3e-3, 0, 2.0)):
        put(tmp_path / "s", config(rate, seed), loss, by_position=[loss] * 64, by_position_se=[0.01] * 64)
    lost = put_diverged(tmp_path / "s", config(3e-3, 1))
    (row,) = _chosen([tmp_path / "s"]).values()
    assert row["optimizer.learning_rate"] == 1e-3 and row["label"].endswith("(2 seeds)")
    assert "left out: 1 run at other" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no finished run with losses by position"):
        _chosen([lost])
    put_diverged(tmp_path / "s", config(1e-3, 2))
    put_diverged(tmp_path / "s", config(3e-3, 2))
    with pytest.raises(UserError, match="s: a run of every learning rate has diverged"):
        _chosen([tmp_path / "s"])


def test_seeds_are_one_curve(make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, at = tmp_path / "runs" / "s", np.arange(1.0, 65.0)
    for seed, offset in ((0, 2.0), (1, 2.2)):
        for steps in (20, 30):
            loss = offset - 0.01 * steps + 2.0 * at**-0.5
            config = make_config("lstm", **{"train.seed": seed, "train.steps": steps})
            put(folder, config, float(loss.mean()), by_position=loss.tolist(), by_position_se=[0.01] * 64)
    found = _chosen([folder])
    assert len(found) == 2 and all(name.endswith("(2 seeds)") for name in found)
    for row in found.values():
        mean = 2.1 - 0.01 * row["train.steps"] + 2.0 * at**-0.5
        np.testing.assert_allclose(row["validation"]["by_position"], mean)
        assert row["validation"]["by_position_se"] == [0.01] * 64


def test_forms_of_a_family_have_names_of_their_own(make_config: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "s"
    modern = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True}
    for form in ({}, modern):
        for width in (16, 32):
            config = make_config(
                "transformer", **{f"model.{key}": form[key] for key in form}, **{"model.d_model": width}
            )
            put(folder, config, 2.0, by_position=[2.0] * 64, by_position_se=[0.01] * 64)
    found = {name: row["kind"] for name, row in _chosen([folder]).items()}
    assert len(found) == 4 and {kind.split()[-1] for kind in found.values()} == {"gpt2", "modern"}
    assert all(name.split()[1:] == [kind.split()[-1]] for name, kind in found.items())
