"""`seqjax crossing`: the pilot of one size, three families, budgets, figures, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.laws import make_points
from seqjax.laws.clusters import clusters_of
from seqjax.laws.surfaces import fit_surface
from seqjax.plots.crossing import draw_map

PILOT = {  # english, bpe-512, T 128, B 16, rate 1e-2, one seed, held-out nats per token
    "LSTM": (97e3, (3.438, 3.249, 3.091, 2.992, 2.935)),
    "Transformer": (100e3, (3.603, 3.289, 2.989, 2.833, 2.788)),
}
TOKENS = (5e5, 1e6, 2e6, 4e6, 8e6)
TRUTHS = {"early": (2.0, 35.0, 0.28), "late": (1.75, 260.0, 0.40), "never": (2.5, 260.0, 0.40)}


def call(*words: object) -> int:
    return main([str(word) for word in words])


def test_sizes_that_count_as_one_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"family": family, "params": n * near, "tokens": d, "loss": e + 12 / n**0.3 + b / d**beta}
        for family, (e, b, beta) in TRUTHS.items() if family != "never"
        for n in (5e4, 1e5) for near in (1.0, 1.03) for d in TOKENS
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    assert call("crossing", tmp_path / "t.csv", "--bootstrap", 20) == 0
    printed = capsys.readouterr().out
    assert printed.count("20 runs, 2 N, 5 D") == 2 and printed.count("fewer than 3 sizes") == 2


def test_a_figure_of_one_common_size_shows_that_size_alone() -> None:
    surfaces = []
    for name, sizes in (("early", (2.5e4, 5e4, 1e5)), ("late", (1e5,))):
        e, b, beta = TRUTHS[name]
        n, d = (x.ravel() for x in np.meshgrid(sizes, TOKENS))
        surfaces.append(fit_surface(make_points(e + 12 / n**0.3 + b / d**beta, params=n, tokens=d), 0))
    (axes,) = draw_map(tuple(surfaces), ("early", "late"), ["tokens"]).axes
    drawn = {line.get_label(): len(line.get_xdata()) for line in axes.get_lines() if line.get_marker() in "os"}
    assert drawn == {"early, N = 100 k": 5, "late, N = 100 k": 5}


def test_times_without_overlap_are_said_and_the_rest_is_told(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = pd.read_csv(table)
    slow.loc[slow["family"] == "late", "seconds"] *= 1e4
    slow.to_csv(table, index=False)
    assert call("crossing", table, "--families", "early", "late", "--seconds", "seconds", "--bootstrap", 20) == 0
    printed = capsys.readouterr().out
    assert "at no size were both trained with budgets in common" in printed.partition("over seconds")[2]
    assert "early, then late" in printed.partition("over tokens")[2].partition("over seconds")[0]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three families at two sizes with two seeds; early and late cross at 1.32 M."""
    rng = np.random.default_rng(0)
    rows = [
        {"family": family, "params": n, "tokens": d, "seed": seed, "seconds": 1e-9 * n * d,
         "loss": (e + 12 / n**0.3 + b / d**beta) * np.exp(1e-3 * rng.standard_normal())}
        for family, (e, b, beta) in TRUTHS.items() for n in (5e4, 1e5) for seed in (0, 1) for d in TOKENS
    ]  # fmt: skip
    path = tmp_path / "table.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    rows = [(f, n, d, x) for f, (n, losses) in PILOT.items() for d, x in zip(TOKENS, losses, strict=True)]
    path = tmp_path / "pilot.csv"
    pd.DataFrame(rows, columns=["model", "N", "D", "nats"]).to_csv(path, index=False)
    return path


def test_the_pilot(pilot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "pilot.png"
    code = call("crossing", pilot, "--params", "N", "--tokens", "D", "--loss", "nats", "--by", "model",
                "--families", "LSTM", "Transformer", "--bootstrap", 100, "--plot", figure)  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0 and figure.stat().st_size > 10_000
    assert "FLAG the law misses the runs" in printed  # the Transformer's curve bends between 1 M and 4 M tokens
    read = printed.partition("read directly")[2]
    assert "1.22 M  unknown" in read and "LSTM by 0.165 nats at the first D" in " ".join(read.split())
    assert max(map(len, printed.splitlines())) <= 80


def test_forms_of_one_family_are_not_pooled(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a run table of an LSTM and two forms of the Transformer."""
    rows = pd.read_csv(table)
    family = rows["family"].replace({"late": "transformer", "never": "transformer"})
    rows.rename(columns={"family": "kind"}).assign(**{"model.family": family}).to_csv(table, index=False)
    for between, words in (("vs", ("crossing", table)), ("against", ("compare", table, "--law", "kaplan-d"))):
        assert call(*words, "--bootstrap", 0) == 0
        printed = capsys.readouterr().out
        for pair in ("early", "late"), ("early", "never"), ("late", "never"):
            assert f" {between} ".join(pair) in printed
        assert "transformer" not in printed
    assert call("crossing", table, "--families", "early", "transformer") == 2
    assert "there is no such kind" in capsys.readouterr().err


def test_two_of_three_families_over_all_budgets(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "map.svg"
    code = call("crossing", table, "--families", "early", "late", "--seconds", "seconds", "--at", 1e5, 1e6,
                "--bootstrap", 100, "--plot", figure)  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0 and "beyond the data" in figure.read_text()
    assert [budget in printed for budget in ("over tokens", "over flops (6 N D)", "over seconds")] == [True] * 3
    assert "never" not in printed and "M beyond  beyond the sizes" in printed
    assert "early, then late" in printed and max(map(len, printed.splitlines())) <= 80
    assert call("crossing", table, "--bootstrap", 0) == 0  # each two, without intervals
    printed = capsys.readouterr().out
    assert printed.count("over tokens") == 3 and "late leads everywhere in the data" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--families", "early", "lates"], "--families lates: there is no such family; did you mean 'late'?"),
        (["--families", "late", "late"], "--families late late: expected two different ones"),
        (["--by", "seconds", "--families", "1", "2"], "--families 1: there is no such seconds"),
        (["--plot", "map.png", "--bootstrap", "0"], "--plot draws two families, there are 3"),
        (["--families", "early", "late", "--params", "size"], "params: there is no column 'size'"),
        (["--families", "early", "late", "--seconds", "secs"], "seconds: there is no column 'secs'"),
        (["--families", "early", "late", "--at", "-1"], "--at"),
        (["--by", "kind"], "--by kind: there is no such column"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], expected: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("crossing", table, *words) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and error.count("\n") == 0


def test_rows_that_cannot_be_read(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(table)
    frame.loc[3, "loss"] = np.nan
    frame.to_csv(table, index=False)
    assert call("crossing", table, "--families", "early", "late", "--bootstrap", 0) == 2
    assert "column 'loss', line 5: is empty; leave such rows out" in capsys.readouterr().err
    assert call("crossing", table, "--families", "early", "late", "--bootstrap", 0, "--where", "loss.notna()") == 0
    frame[frame["tokens"] < 2e6].dropna().to_csv(table, index=False)
    capsys.readouterr()
    assert call("crossing", table, "--families", "early", "late", "--bootstrap", 0) == 2
    assert "runs at 2 different D are too few for a surface" in capsys.readouterr().err
    frame[frame["family"] == "late"].to_csv(table, index=False)
    assert call("crossing", table, "--bootstrap", 0) == 2
    assert "there is one group only, late; two are needed" in capsys.readouterr().err


def test_what_shares_its_noise() -> None:
    rows = pd.DataFrame({"params": [1, 1, 1, 2], "seed": [0, 0, 1, None]})
    assert clusters_of(rows).nunique() == 3
    assert clusters_of(rows.drop(columns="seed")).nunique() == 4
    assert clusters_of(rows.assign(seed=0)).nunique() == 4  # one seed: runs of their own, unless a trunk is named
    assert clusters_of(rows.assign(trunk=["a", "a", None, "a"])).nunique() == 2
