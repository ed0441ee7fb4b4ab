"""`seqjax fit`, `predict` and `optimal`, from a table to a prediction, and what they say of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.laws import LAWS
from seqjax.laws.files import read_fits
from seqjax.laws.law import Law

TRUTH = {"E": 1.8, "A": 400.0, "B": 900.0, "alpha": 0.33, "beta": 0.30}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e9, 1e11, 5)))
    law = LAWS["chinchilla"]
    loss = law.loss(law.theta_P(TRUTH), {"params": n, "tokens": d})
    loss *= np.exp(2e-3 * np.random.default_rng(0).standard_normal(len(loss)))
    path = tmp_path / "table.csv"
    frame = pd.DataFrame({"Size": n, "FLOP": 6 * n * d, "Tokens": d, "Loss": loss, "kind": ["a", "b"] * (len(n) // 2)})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(autouse=True)
def few_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 150 of each law's starts: the whole grids are tested in tests/laws."""
    whole = Law.starts_SxP
    monkeypatch.setattr(Law, "starts_SxP", lambda law: whole(law)[:: max(1, len(whole(law)) // 150)])


def call(*words: object) -> int:
    return main([str(word) for word in words])


def test_fit_predict_optimal(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fit.json"
    code = call("fit", table, "--law", "chinchilla", "--params", "Size", "--flops", "FLOP", "--loss", "Loss",
                "--bootstrap", 200, "--json", out, "--checklist", "--where", "Loss < 4.9")  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert "L = E + A / N^alpha + B / D^beta" in printed and "tokens are FLOPs / (6 N)" in printed
    assert "left out:" in printed and "not Loss < 4.9" in printed and "Which points are left out" in printed
    saved = json.loads(out.read_text())
    assert saved["law"] == "chinchilla" and saved["objective"] == "huber" and saved["starts_agreeing"] > 0
    assert set(saved["params"]) == set(saved["intervals"]) == set(TRUTH)
    assert saved["n_rows"] + len(saved["left_out"]) == 30
    for name, value in TRUTH.items():
        low, high = saved["intervals"][name]
        assert low < saved["params"][name] < high
        assert low - (high - low) < value < high + (high - low)
    assert call("predict", out, "--params", 1e10, "--tokens", 1e12) == 0
    printed = capsys.readouterr().out
    expected = 1.8 + 400 / 1e10**0.33 + 900 / 1e12**0.30
    assert abs(float(printed.split(": ")[1].split()[0]) - expected) < 0.02
    assert "95 %" in printed and "extrapolated: params 10 times the largest measured" in printed
    assert call("optimal", out, "--flops", 1e20, 1e22) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 5 and "the largest measured, this is extrapolated" in printed
    assert call("optimal", out, "--flops", 1e9) == 0
    assert "the smallest measured, this is extrapolated" in capsys.readouterr().out


def test_an_error_of_all_groups_is_told_once(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", table, "--law", "kaplan-n", "--params", "Size", "--loss", "Loss", "--by", "kind",
                "--bootstrap", 20) == 2  # fmt: skip
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert "kind a, b: " in error and "20 refits" in error


def test_optima_take_forms_of_a_family_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the other commands do; a form that cannot be fitted is an error, and its exit code is 2."""
    n, d, rate = (x.ravel() for x in np.meshgrid([1e5, 1e6, 1e7], [1e7, 1e8], np.geomspace(1e-4, 1.0, 13)))
    frame = pd.DataFrame({"model.family": "transformer", "params": n, "tokens": d, "optimizer.learning_rate": rate})
    frame["loss"] = 2 + 0.1 * np.log(rate / (10.0 * n**-0.5 * d**0.05)) ** 2
    forms = [frame.assign(kind="transformer gpt2"), frame.assign(kind="transformer modern")]
    forms[1] = forms[1][forms[1]["params"] == 1e5].head(2)
    pd.concat(forms).to_csv(tmp_path / "rates.csv", index=False)
    assert call("optima", tmp_path / "rates.csv", "--bootstrap", 40) == 2
    printed = capsys.readouterr()
    assert "== kind transformer gpt2" in printed.out and "kind transformer modern: " in printed.err


@pytest.mark.slow
def test_one_fit_for_each_group(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fits.json"
    assert call("fit", table, "--law", "offset-c", "--params", "Size", "--flops", "FLOP", "--loss", "Loss", "--by",
                "kind", "--bootstrap", 50, "--json", out, "--plot", tmp_path / "fits.svg") == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "== kind a" in printed and "== kind b" in printed
    assert set(read_fits(out)) == {"a", "b"}
    assert (tmp_path / "fits.svg").read_text().startswith("<?xml")
    assert call("predict", out, "--flops", 1e18) == 0
    assert [line[:3] for line in capsys.readouterr().out.splitlines()] == ["a: ", "b: "]


def test_groups_that_where_leaves_out_are_no_error(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fit", table, "--law", "kaplan-c", "--params", "Size", "--flops", "FLOP", "--loss", "Loss", "--by", "kind",
             "--bootstrap", 40, "--where")  # fmt: skip
    assert call(*words, "kind == 'a'") == 0
    printed = capsys.readouterr()
    assert printed.err == "note: --where leaves no row of kind b\n" and "== kind a" in printed.out
    assert "kind b" not in printed.out


def test_a_law_with_held_constants_from_table_to_prediction(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(table)
    rows.assign(seen=1.0).to_csv(table, index=False)
    out = tmp_path / "fit.json"
    words = ("fit", table, "--law", "kaplan-c", "--params", "Size", "--flops", "FLOP", "--loss", "Loss", "--weights",
             "seen", "--bootstrap", 0)  # fmt: skip
    assert call(*words, "--fix", "alpha_C=0.05", "--errors", "nats", "--objective", "least-squares", "--json", out) == 0
    printed = capsys.readouterr().out
    assert "least squares of L in nats" in printed and "rows are weighed by the column 'seen'" in printed
    scale = float(printed.split("\n  C_c ")[1].split()[0])
    assert call("predict", out, "--flops", 1e18) == 0
    assert abs(float(capsys.readouterr().out.split(": ")[1].split()[0]) - (scale / 1e18) ** 0.05) < 1e-3
    assert call(*words, "--fix", "alpha=0.05") == 2
    assert "--fix alpha=0.05: kaplan-c has no constant alpha; did you mean 'alpha_C'" in capsys.readouterr().err


def test_one_group_of_a_file_is_chosen(saved_fit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = json.loads(saved_fit.read_text())
    both = saved_fit.with_name("both.json")
    both.write_text(json.dumps({"format": fit["format"], "fits": {"lstm": fit, "gru": fit}}))
    assert call("predict", both, "--group", "gru", "--flops", 1e18) == 0
    assert [line[:5] for line in capsys.readouterr().out.splitlines()] == ["gru: "]
    assert call("predict", both, "--group", "lstn", "--flops", 1e18) == 2
    error = capsys.readouterr().err
    assert f"--group lstn: is not in {both}; did you mean 'lstm'?; there are lstm, gru" in error
    assert call("optimal", saved_fit, "--group", "gru", "--flops", 1e18) == 2
    assert "holds one fit, without groups" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fit_survives_its_file(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "fit.json"
    assert call("fit", table, "--law", "over-training", "--params", "Size", "--tokens", "Tokens", "--loss", "Loss",
                "--bootstrap", 50, "--json", out) == 0  # fmt: skip
    (found,) = read_fits(out).values()
    again = found.predict(params=1e8, tokens=1e10)
    saved = json.loads(out.read_text())
    np.testing.assert_allclose(again.loss, 1.8 + 400 / 1e8**0.33 + 900 / 1e10**0.30, rtol=0.03)
    assert len(found.draws) == 50 and found.constants == saved["params"]


def isoflop_table(path: Path) -> Path:
    flops = np.repeat([1e17, 1e18, 1e19], 7)
    size = np.sqrt(flops / 6) * np.tile(np.geomspace(1 / 3, 3, 7), 3)
    loss = 1.8 + 400 / size**0.34 + 400 / (flops / 6 / size) ** 0.34
    rows = [pd.DataFrame({"Size": size, "FLOP": flops, "loss": loss + 0.3 * (kind == "b"), "kind": kind})
            for kind in "ab"]  # fmt: skip
    pd.concat(rows).to_csv(path, index=False)
    return path


def test_frontier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, figure = isoflop_table(tmp_path / "iso.csv"), tmp_path / "iso.png"
    columns = ("--params", "Size", "--flops", "FLOP", "--bootstrap", 50)
    assert call("frontier", path, *columns, "--by", "kind") == 0
    printed = capsys.readouterr().out
    assert printed.count("  N ~ C^a, a = 0.500 (95 %") == 2 and "kind b" in printed and "no flags" in printed
    assert "\n        1e17 " in printed  # compute as the field writes it
    assert printed.count("  by Akima splines a = 0.500 (95 %") == printed.count("  D ~ C^b, b = 0.500 (95 %") == 2
    assert call("frontier", path, *columns, "--where", "kind == 'a'", "--window", 1) == 2
    assert "--window: expected a number above 1" in capsys.readouterr().err
    assert call("frontier", path, *columns, "--where", "kind == 'a'", "--plot", figure) == 0
    assert figure.stat().st_size > 3000
    assert call("frontier", path, *columns, "--by", "kind", "--plot", figure) == 0
    assert all((tmp_path / f"iso-{kind}.png").stat().st_size > 3000 for kind in "ab")
    assert call("frontier", path, *columns, "--envelope", "--where", "kind == 'a'") == 2
    assert "a checkpoint each" in capsys.readouterr().err


def test_the_frontier_of_two_families_is_not_that_of_their_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.read_csv(isoflop_table(tmp_path / "iso.csv")).rename(columns={"kind": "family"}).to_csv(
        tmp_path / "iso.csv", index=False
    )
    columns = (tmp_path / "iso.csv", "--params", "Size", "--flops", "FLOP", "--bootstrap", 0)
    assert call("frontier", *columns) == 0
    apart = capsys.readouterr()
    assert "family a\n" in apart.out and "family b\n" in apart.out and "one fit for each family, a, b" in apart.err
    assert call("frontier", *columns, "--by", "all") == 0
    assert "all runs\n" in capsys.readouterr().out


def test_the_checklist_does_not_blame_who_asked_for_refits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs do not say how sure two constants are: there are no refits, though 50 were asked for."""
    run, tokens = (x.ravel() for x in np.meshgrid(["a", "b"], np.geomspace(1e6, 1e8, 6)))
    frame = pd.DataFrame({"run_id": run, "tokens": tokens, "loss": 20 * tokens**-0.1 + 0.01 * (run == "b")})
    frame.to_csv(tmp_path / "two.csv", index=False)
    assert call("fit", tmp_path / "two.csv", "--law", "kaplan-d", "--bootstrap", 50, "--checklist") == 0
    printed = capsys.readouterr().out
    assert "2 independent runs do not say" in printed and "they are not: there are no refits" in printed


def test_other_contexts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inside of a group, and between groups that are compared; but not where the contexts are what is compared."""
    table = pd.read_csv(isoflop_table(tmp_path / "iso.csv"))
    context = np.where(table["kind"] == "a", 8, 1408)
    table.assign(context=context, seed=context).to_csv(tmp_path / "iso.csv", index=False)
    columns = (tmp_path / "iso.csv", "--params", "Size", "--flops", "FLOP", "--bootstrap", 0)
    assert call("frontier", *columns) == 0
    assert "note: several contexts in one fit: 8, 1408" in capsys.readouterr().out
    for by, told in (("kind", True), ("context", False)):
        assert call("compare", *columns, "--law", "kaplan-n", "--by", by) == 0
        assert ("the contexts differ, and losses with them: a 8, b 1408" in capsys.readouterr().err) == told


def checkpoint_table(path: Path) -> Path:
    """Curves whose loss at D tokens is that of a law, a row for each checkpoint."""
    size = np.repeat(np.geomspace(1e6, 1e8, 9), 30)
    tokens = np.concatenate([n * np.geomspace(0.3, 3000, 30) for n in np.geomspace(1e6, 1e8, 9)])
    loss = 1.8 + 400 / size**0.34 + 400 / tokens**0.34
    pd.DataFrame({"N": size, "D": tokens, "loss": loss}).to_csv(path, index=False)
    return path


def test_the_envelope_of_a_table_of_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint_table(tmp_path / "curves.csv")
    words = ("frontier", path, "--envelope", "--params", "N", "--tokens", "D", "--bootstrap", 50)
    assert call(*words) == 0
    printed = capsys.readouterr().out
    assert "9 training curves" in printed and 0.45 < float(printed.split("a = ")[1].split()[0]) < 0.55
    rows = pd.read_csv(path)
    pd.concat([rows.assign(seed=seed) for seed in (0, 1)]).to_csv(path, index=False)
    assert call(*words) == 2
    assert "line 2: there are several runs of N = 1 M: keep one of each size with --where" in capsys.readouterr().err
    assert call(*words, "--where", "seed == 0") == 0
    assert call(*words, "--window", 4) == 2
    assert "--window is of IsoFLOP profiles" in capsys.readouterr().err


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two families that cross at N = 1e6."""
    params = np.geomspace(1e4, 1e8, 12)
    families = {"lstm": (1e13, 0.08, 3.0), "transformer": (10**11.6, 0.10, 5.0)}
    rows = []
    for name, (scale, alpha, k) in families.items():
        loss = (scale / params) ** alpha * (1 + 1e-3 * np.sin(np.arange(12) * k))
        rows.append(pd.DataFrame({"N": params, "loss": loss, "family": name}))
    pd.concat(rows).to_csv(tmp_path / "two.csv", index=False)
    words = ("compare", tmp_path / "two.csv", "--params", "N", "--by", "family", "--bootstrap", 100)
    assert call(*words, "--plot", tmp_path / "two.png", "--ratio", tmp_path / "ratio.png") == 0
    printed = capsys.readouterr().out
    crossing, unit = printed.split("cross at N = ")[1].split()[:2]
    assert (
        7e5 < float(crossing) * {"k": 1e3, "M": 1e6}[unit] < 1.4e6 and "beyond which transformer is better" in printed
    )
    assert "N of lstm / transformer" in printed
    assert (tmp_path / "two.png").is_file() and (tmp_path / "ratio.png").is_file()
    assert call(*words, "--losses", 3.5, 1.0) == 0
    printed = capsys.readouterr().out.partition("N of lstm / transformer")[2].splitlines()
    assert [line.split()[0] for line in printed[1:3]] == ["3.5000", "1.0000"] and len(printed) == 3
    assert printed[2].endswith("(extrapolated)") and not printed[1].endswith("(extrapolated)")
    assert call(*words, "--where", "family == 'lstm'") == 2
    error = capsys.readouterr().err
    assert "note: --where leaves no row of family transformer" in error and "there is one group only, lstm" in error


def test_positions_of_real_runs(config_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("positions", config_run, "--late", 4, 16, "--bootstrap", 40, "--plot", tmp_path / "p.png") == 0
    printed = capsys.readouterr().out
    assert "4 to 16:" in printed and "/ T^" in printed and (tmp_path / "p.png").is_file()
    assert call("positions", config_run, "--late", 4, 99) == 2
    assert "1 <= early < late <= 16" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert call("positions", tmp_path / "empty") == 2
    assert "no run folders" in capsys.readouterr().err


@pytest.fixture
def config_run(make_config: Any, tmp_path: Path) -> Path:
    from seqjax.training.loop import train

    train(make_config("elman"), tmp_path / "run", devices=1, quiet=True)
    return tmp_path / "run"


@pytest.mark.slow
def test_a_group_that_cannot_be_fitted_costs_the_others_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(table)
    rows.loc[rows.index[:2], "kind"] = "few"
    rows.loc[rows.index[2:9], "kind"] = None
    rows.to_csv(table, index=False)
    out = tmp_path / "fits.json"
    code = call("fit", table, "--law", "offset-c", "--params", "Size", "--flops", "FLOP", "--loss", "Loss", "--by",
                "kind", "--bootstrap", 40, "--json", out)  # fmt: skip
    printed = capsys.readouterr()
    assert code == 2 and "error: kind few: offset-c has 3 constants" in printed.err
    assert set(read_fits(out)) == {"(empty)", "a", "b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fit: fit["params"].update(alpha=9.0), "params and theta are not the same constants"),
        (lambda fit: fit.update(theta=fit["theta"][:2]), "theta must be 3 numbers"),
        (lambda fit: fit.update(draws=[row[:2] for row in fit["draws"]]), "draws must be lists of 3 numbers"),
        (lambda fit: fit["points"].pop("flops"), "values of flops"),
        (lambda fit: fit.update(law="offset-x"), "no law 'offset-x'"),
        (lambda fit: fit.update(fits=[]), "holds no fits"),
    ],
)
def test_a_fit_that_was_changed_by_hand_is_refused(
    saved_fit: Path, change: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = json.loads(saved_fit.read_text())
    change(fit)
    saved_fit.write_text(json.dumps(fit))
    assert call("predict", saved_fit, "--flops", 1e20) == 2
    error = capsys.readouterr().err
    assert words in error and str(saved_fit) in error and len(error.splitlines()) == 1


@pytest.fixture
def saved_fit(tmp_path: Path) -> Path:
    """Written by hand of a fit to ten points, without the search."""
    from seqjax.laws import fit, make_points
    from seqjax.laws.files import write_fits

    flops = np.geomspace(1e15, 1e20, 10)
    points = make_points(2 + 50 / flops**0.1, flops=flops)
    start = LAWS["offset-c"].theta_P({"E": 2.0, "A": 50.0, "alpha": 0.1})[None]
    write_fits(tmp_path / "fit.json", {"": fit(points, "offset-c", bootstrap=40, diagnose=False, starts_SxP=start)})
    return tmp_path / "fit.json"


def test_the_laws_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", "--laws") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in LAWS)


MISTAKES = {
    "no table": (["fit"], "expected a TABLE or DIR"),
    "no such table": (["fit", "nowhere.csv"], "nowhere.csv: there is no such table"),
    "another kind of file": (["fit", "notes.txt"], "not a sweep folder or a table: expected a name"),
    "unknown law": (["fit", "TABLE", "--law", "chinchila"], "no law 'chinchila'; did you mean 'chinchilla'"),
    "unknown column": (["fit", "TABLE", "--params", "size"], "there is no column 'size'; did you mean 'Size'"),
    "no columns": (["fit", "TABLE", "--loss", "Loss"], "no params, tokens or flops: name the column (--params COLUMN)"),
    "no columns of a law": (
        ["fit", "TABLE", "--loss", "Loss", "--law", "chinchilla"],
        "needs params and tokens: name the column (--params COLUMN)",
    ),
    "bad by": (["fit", "TABLE", "--by", "knd", "--loss", "Loss"], "--by knd: there is no such column; did you mean"),
    "bad plot": (["fit", "TABLE", "--plot", "x.bmp"], "x.bmp: expected a name that ends in"),
    "negative": (["fit", "TABLE", "--bootstrap", "-1"], "--bootstrap: expected a whole number of at least 0"),
    "a seed below 0": (["fit", "TABLE", "--seed", "-1"], "--seed: expected a whole number of at least 0"),
    "a seed of 33 bits": (["frontier", "TABLE", "--seed", "4294967296"], "--seed: expected"),
    "a seed of 64 bits": (["compare", "TABLE", "--seed", "9223372036854775808"], "expected a whole number"),
    "no fit": (["predict", "nowhere.json", "--params", "1"], "nowhere.json: cannot be read"),
    "not a fit": (["predict", "TABLE", "--params", "1"], "is not JSON"),
    "no flops": (["optimal", "OTHER", "--flops", "1e9"], "is not a fit of seqjax"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = MISTAKES[name]
    (tmp_path / "other.json").write_text("{}")
    places = {"TABLE": str(table), "OTHER": str(tmp_path / "other.json")}
    assert call(*[places.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


def test_a_folder_that_cannot_be_written_loses_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("/dev/null/fit.json", table.parent):
        code = call("fit", table, "--law", "offset-c", "--params", "Size", "--flops", "FLOP", "--loss", "Loss",
                    "--bootstrap", 40, "--json", place)  # fmt: skip
        printed = capsys.readouterr()
        assert code == 2 and "cannot be written" in printed.err and not printed.out  # nothing was computed in vain


def test_groups_go_by_size(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(table).assign(layers=[1, 2, 10] * 10)
    frame.to_csv(table, index=False)
    columns = ["--params", "Size", "--tokens", "Tokens", "--loss", "Loss", "--by", "layers"]
    assert call("fit", table, "--law", "chinchilla", *columns, "--bootstrap", 0) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]
    assert shown == ["== layers 1", "== layers 2", "== layers 10"]


def test_what_two_sizes_do_not_determine_has_no_narrow_interval(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refits stay near the minimum of a flat objective; the likelihood has no end there."""
    frame, out = pd.read_csv(table), tmp_path / "fit.json"
    frame[frame["Size"].isin(sorted(frame["Size"].unique())[1:3])].to_csv(table, index=False)
    columns = ["--params", "Size", "--tokens", "Tokens", "--loss", "Loss"]
    assert call("fit", table, "--law", "chinchilla", *columns, "--bootstrap", 100, "--json", out) == 0
    printed = capsys.readouterr().out
    assert "alpha" in read_fits(out)[""].open_ends and "beta" not in read_fits(out)[""].open_ends
    assert "compute-optimal: not determined, since alpha is not" in printed and "-inf to inf" in printed
    assert call("optimal", out, "--flops", 1e17) == 0
    assert "intervals are too narrow: A, alpha are not determined" in capsys.readouterr().out
    for size, told in ((1e12, True), (float(frame["Size"].unique()[1]), False)):
        assert call("predict", out, "--params", size, "--tokens", 1e10) == 0
        assert ("too narrow: A, alpha" in capsys.readouterr().out) is told
