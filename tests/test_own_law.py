"""A law from a file outside of the package, as a user brings it: the example of CONTRIBUTING.md, and mistakes."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import brought
import numpy as np
import pytest

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.host.own_code import name_of
from seqjax.laws import fit, make_points
from seqjax.laws.files import read_fits, write_fits
from seqjax.laws.own import law_named

KNEE = brought.example("A law of your own")
FEW = KNEE.replace("(-1.0, 0.0, 1.0)", "(0.5,)").replace("(0.0, 4.0, 8.0)", "(3.5,)")  # fewer starts: a faster fit
TRUTH = {"E": 1.5, "A": 30.0, "K": 2e4, "alpha": 0.3}


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def law(tmp_path: Path) -> Any:
    """``law()``: the words that name the law of a file outside of the package."""

    def of(text: str = FEW, name: str = "my_law.py") -> str:
        (tmp_path / name).write_text(text)
        return f"{tmp_path / name}:knee"

    return of


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``forget()``: from here on this process is another one."""
    brought.forget(monkeypatch)
    return partial(brought.forget, monkeypatch)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Losses of two families, exactly as the law has them; b is always better."""
    rows = ["family,N,loss"]
    for family, E in (("a", 1.5), ("b", 1.2)):
        rows += [f"{family},{N:.6g},{E + 30 / (N + 2e4) ** 0.3}" for N in np.geomspace(1e3, 1e8, 12)]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "t.csv"


def test_the_example_is_short_and_finds_its_constants_again(law: Any, forget: Any) -> None:
    assert brought.lines_of_code(KNEE) <= 30
    found = law_named(law(KNEE))
    N = np.geomspace(1e3, 1e8, 12)
    fitted = fit(
        make_points(found.loss(found.theta_P(TRUTH), {"params": N}), params=N), found, bootstrap=0, diagnose=False
    )
    assert fitted.constants == pytest.approx(TRUTH, rel=1e-4)


@pytest.mark.slow
def test_fit_predict_compare_and_figures(law: Any, forget: Any, table: Path, tmp_path: Path, capsys: Any) -> None:
    words, out, how = law(), tmp_path / "f.json", ("--params", "N", "--bootstrap", 0)
    drawn = ("--json", out, "--plot", tmp_path / "f.svg")
    assert call("fit", table, "--law", words, "--where", "family == 'a'", *how, *drawn) == 0
    said, name = capsys.readouterr().out, name_of("knee", FEW)
    assert f"{name}: L = E + A / (N + K)^alpha   [CONTRIBUTING.md]" in said and (tmp_path / "f.svg").exists()
    saved = json.loads(out.read_text())
    assert saved["law"] == name and saved["equation"] == "L = E + A / (N + K)^alpha" and saved["law_code"] == FEW
    assert saved["law_sha256"] == hashlib.sha256(FEW.encode()).hexdigest()
    assert saved["params"] == pytest.approx(TRUTH, rel=1e-3)
    assert call("compare", table, "--law", words, "--by", "family", *how) == 0
    assert "b has the lower loss" in capsys.readouterr().out
    want = f"params 1 G: {1.5 + 30 / 1e9**0.3:.4f} nats/token"
    assert want in said_by(capsys, "predict", out, "--params", 1e9)
    forget()
    assert call("predict", out, "--params", 1e9) == 2
    assert "name its file with --law FILE.py:knee" in capsys.readouterr().err
    assert want in said_by(capsys, "predict", out, "--params", 1e9, "--law", law(name="elsewhere.py"))
    forget()
    assert want in said_by(capsys, "predict", out, "--params", 1e9, "--trust-code")
    assert call("optimal", out, "--flops", 1e18) == 2
    assert "is no law of N and D" in capsys.readouterr().err


def said_by(capsys: Any, *words: object) -> str:
    capsys.readouterr()
    assert call(*words) == 0
    return capsys.readouterr().out


def test_code_of_a_fit_is_run_only_where_somebody_says_so(law: Any, forget: Any, tmp_path: Path) -> None:
    out, N = tmp_path / "f.json", np.geomspace(1e3, 1e8, 12)
    found = law_named(law())
    points = make_points(found.loss(found.theta_P(TRUTH), {"params": N}), params=N)
    write_fits(out, {"": fit(points, found, bootstrap=0, diagnose=False)})
    forget()
    changed = law(FEW + "\n")
    with pytest.raises(UserError, match=r"f\.json: its law knee@.* is code outside of the package"):
        read_fits(out)
    with pytest.raises(UserError, match="the text was changed since"):
        read_fits(out, law=changed)
    with pytest.raises(UserError, match=r"is code outside|no fit in .* is of it"):
        read_fits(out, law="kaplan-n")
    saved = json.loads(out.read_text())
    out.write_text(json.dumps({**saved, "law_code": 'raise SystemExit("it was run")'}))
    with pytest.raises(UserError, match="it was changed"):
        read_fits(out, trust=True)
    out.write_text(json.dumps({**saved, "law_code": None}))
    with pytest.raises(UserError, match="is damaged: it holds no law_code"):
        read_fits(out, trust=True)
    out.write_text(json.dumps(saved))
    assert read_fits(out, trust=True)[""].law.name == found.name


MISTAKES = {  # text -> what the message must hold
    "syntax": ("x = 1\ndef log_loss(:\n", "my_law.py:2: SyntaxError: "),
    "no law": (KNEE.replace("knee = ", "kne = "), "has no law knee; it has kne; did you mean 'kne'?"),
    "variable": (KNEE.replace('variables=("params",)', 'variables=("param",)'), "'param' is not allowed; allowed: par"),
    "failure": (KNEE.replace('logs["params"]', 'logs["N"]'), "my_law.py:11: KeyError: 'N'"),
    "shape": (KNEE.replace("return jnp.logaddexp", "return jnp.sum(jnp.logaddexp").replace("k))\n\n", "k)))\n\n", 1),
              "log_loss gives shape () for 2 rows"),
    "starts": (KNEE.replace("starts=(0.2, 0.5, 1.0)", "starts=()"), "alpha: starts: expected finite numbers"),
    "linear": (KNEE.replace("log_loss=log_loss", 'linear=(("F",),), log_loss=log_loss'), "linear: 'F' is no constant"),
    "twice": (KNEE.replace('Constant("K"', 'Constant("A"'), "two constants have one name"),
    "many": (KNEE.replace("starts=(0.2, 0.5, 1.0)", "starts=tuple(range(5000))"), "has 135,000 starts"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_told_in_one_line(name: str, law: Any, forget: Any, tmp_path: Path) -> None:
    text, fragment = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        law_named(law(text))
    assert str(caught.value).startswith(str(tmp_path / "my_law.py")) and "\n" not in str(caught.value)
    assert fragment in str(caught.value)


def test_a_law_that_is_not_there(law: Any, forget: Any, tmp_path: Path, monkeypatch: Any) -> None:
    law()
    with pytest.raises(UserError, match=r"there is no law 'knee'; there are kaplan-n, .* FILE.py:LAW"):
        law_named("knee")
    with pytest.raises(UserError, match=r"my_lav.py: no such file, seen from .*; did you mean 'my_law.py'\?"):
        law_named(f"{tmp_path / 'my_lav.py'}:knee")
    monkeypatch.syspath_prepend(tmp_path)
    assert law_named("my_law:knee") is law_named(law())
