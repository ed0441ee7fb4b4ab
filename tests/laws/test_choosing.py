"""The law that is fitted where none is named, laws that are refused, and what a law does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.laws import LAWS, fit, make_points
from seqjax.laws.choosing import law_for, refused_if_impossible
from seqjax.laws.points import Points, read_points
from seqjax.laws.run_rows import several_depths

N = np.geomspace(1e4, 1e6, 6)


def points(**variables: np.ndarray) -> Points:
    return make_points(5.0 - 0.01 * np.arange(len(next(iter(variables.values())))), **variables)


GRID = [x.ravel() for x in np.meshgrid(N, np.geomspace(1e6, 1e8, 3))]
TABLES = {
    "N and D vary": (points(params=GRID[0], tokens=GRID[1]), "chinchilla"),
    "D never varies": (points(params=N, tokens=np.full(6, 1e6)), "kaplan-n"),
    "D is that of whole steps": (points(params=N, tokens=1e6 + 1e4 * np.arange(6)), "kaplan-n"),
    "N never varies": (points(params=np.full(6, 1e6), tokens=N), "kaplan-d"),
    "D = 20 N": (points(params=N, tokens=20 * N), "offset-c"),
    "few points": (points(params=N[:5], tokens=GRID[1][[0, 7, 1, 13, 2]]), "offset-c"),
    "only C": (points(flops=N), "offset-c"),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_law_is_one_that_the_table_can_bear(name: str) -> None:
    table, law = TABLES[name]
    assert law_for([table])[0].name == law
    with refused_if_impossible(table, LAWS[law]):
        pass


def test_all_groups_bear_the_law_if_one_is_there() -> None:
    assert law_for([TABLES["N and D vary"][0], TABLES["few points"][0]])[0].name == "offset-c"


def test_an_impossible_law_is_refused_with_one_that_works() -> None:
    for table, law, words in (
        ("D never varies", "chinchilla", "D does not vary, it is 1 M in all 6 points; --law kaplan-n works"),
        ("D = 20 N", "chinchilla", "N and D vary only together; --law offset-c works"),
        ("N never varies", "offset-n", "N does not vary.*--law kaplan-d works"),
    ):
        with pytest.raises(UserError, match=words), refused_if_impossible(TABLES[table][0], LAWS[law]):
            raise AssertionError("it was fitted")


def test_two_points_bear_no_law() -> None:
    with pytest.raises(UserError, match="no law is known for this table: chinchilla: D does not vary"):
        law_for([points(params=N[:2], tokens=np.full(2, 1e6))])


def test_what_the_law_does_not_know_is_a_flag() -> None:
    mixed = points(params=N, tokens=np.tile([1e6, 2e6], 3))
    flags = fit(mixed, "kaplan-n", bootstrap=0).flags
    assert any("mixed: D varies from 1 M to 2 M, and kaplan-n does not know it" in flag for flag in flags)
    for alike, law in ((TABLES["D is that of whole steps"][0], "kaplan-n"), (mixed, "kaplan-c")):
        assert not any("mixed" in flag for flag in fit(alike, law, bootstrap=0).flags)


def test_several_contexts_are_a_flag() -> None:
    table = pd.DataFrame({"params": N, "loss": 5 / N**0.1, "context": [64, 256] * 3})
    assert "mixed: several contexts in one fit: 64, 256" in fit(read_points(table), "kaplan-n", bootstrap=0).flags


def test_depths_of_one_size_are_told() -> None:
    """Nearly equal sizes of the same tokens; a model that is deeper because it is larger is none."""
    table = pd.DataFrame({
        "kind": "lstm", "params_non_embedding": [1e5, 1.04e5, 3e5, 1e6], "model.n_layers": [1, 4, 1, 4],
        "tokens": 1e6, "loss": [3.2, 3.1, 3.0, 2.9],
    })  # fmt: skip
    told = "models of one size with 1 and 4 layers in one fit: the best depth is not chosen"
    assert several_depths(table) == [told]
    assert several_depths(table[1:]) == several_depths(table.drop(columns="model.n_layers")) == []
    assert f"mixed: {told}" in fit(read_points(table), "kaplan-n", bootstrap=0).flags


def test_the_command_fits_each_family_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"params": n, "tokens": 1e6, "loss": a / n**0.1, "family": family} for family, a in
            (("lstm", 9), ("transformer", 7)) for n in N]  # fmt: skip
    path = tmp_path / "t.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert main(["fit", str(path), "--bootstrap", "0"]) == 0
    printed = capsys.readouterr()
    assert "== family lstm" in printed.out and "== family transformer" in printed.out
    assert printed.err.splitlines() == [
        "note: one fit for each family, lstm, transformer; --by all fits them together",
        "law: kaplan-n, L = (N_c / N)^alpha_N (not chinchilla: D does not vary, it is 1 M in all 6 points)",
    ]
    assert main(["fit", str(path), "--bootstrap", "0", "--by", "all", "--law", "kaplan-n"]) == 0
    assert "== family" not in capsys.readouterr().out
    assert main(["fit", str(path), "--law", "chinchilla", "--where", "family == 'lstm'"]) == 2
    assert "chinchilla cannot be fitted: D does not vary" in capsys.readouterr().err


def test_forms_of_one_family_are_fitted_apart_and_not_mixed_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forms = {"transformer gpt2": 9, "transformer modern": 7}
    rows = [
        {"params": n, "loss": a / n**0.1, "model.family": "transformer", "kind": kind}
        for kind, a in forms.items()
        for n in N
    ]
    path = tmp_path / "t.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert main(["fit", str(path), "--bootstrap", "0"]) == 0
    printed = capsys.readouterr()
    assert "== kind transformer gpt2" in printed.out and "== kind transformer modern" in printed.out
    assert "one fit for each kind, transformer gpt2, transformer modern" in printed.err
    assert main(["fit", str(path), "--bootstrap", "0", "--by", "all"]) == 0
    assert "several kinds of models in one fit: transformer gpt2, transformer modern" in capsys.readouterr().out


def test_one_point_is_called_one() -> None:
    with pytest.raises(UserError, match="N does not vary, it is 100 k in the one point"):
        law_for([points(params=np.array([1e5]))])
