"""`seqjax report`: one page that holds all of a fit and needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seqjax.cli import main
from seqjax.laws import fit, read_points
from seqjax.laws.reference import at_reference, greek
from seqjax.plots.page import unbroken


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two groups of 9 sizes, and a size that is not wanted."""
    n = np.tile(np.geomspace(1e5, 1e9, 9), 2)
    noise = np.exp(2e-3 * np.random.default_rng(0).standard_normal(18))
    loss = np.where(np.arange(18) < 9, 9.0 * n**-0.07, 12.0 * n**-0.09) * noise
    frame = pd.DataFrame({"params": n, "loss": loss, "kind": np.repeat(["a<b", "$x$"], 9)})
    frame.loc[18] = [1e11, 3.0, "a<b"]
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return path


def test_the_page_says_all_and_stands_alone(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "laws.html"
    assert call("report", table, "--law", "kaplan-n", "--by", "kind", "--bootstrap", 40, "--html", out,
                "--where", "params < 1e10") == 0  # fmt: skip
    first, _, _ = capsys.readouterr().out.partition("\n")
    page = out.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert re.match(r"\$x\$: L = [0-9.]+ \(N / 1e7\)\^-0\.0[89]\d* \(-0\.\d+ to -0\.\d+\), from 9 points of N", first)
    assert f'<p class="answer">{first}</p>' in page  # the result is the first paragraph
    assert page.index(first) < page.index("<img") < page.index("Reasons to doubt it")
    assert page.count('src="data:image/svg+xml;base64,') == page.count("<img") == 1
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page and "@import" not in page
    assert "a&lt;b" in page and "a<b" not in page
    assert page.count("How many models, over what range?") == 2
    assert page.count("9 rows used") == 2 and page.count("1 rows left out") == 1
    assert "not params &lt; 1e10" in page
    doubts = re.findall(r"; (no|\d+) reasons? to doubt it", page)
    assert len(doubts) == 2 and page.count("<li>") == sum(int(count) for count in doubts if count != "no")


def test_names_that_are_not_text_are_written_as_bytes(table: Path, tmp_path: Path, monkeypatch: Any) -> None:
    odd = table.rename(tmp_path / "t\udcff.csv")
    words = ["report", str(odd), "--law", "kaplan-n", "--bootstrap", "0", "--html", str(tmp_path / "laws.html")]
    monkeypatch.setattr("sys.argv", ["seqjax", *words])
    assert main(words) == 0
    assert (tmp_path / "laws.html").read_text().count("t\\xff.csv") >= 2


def test_a_notebook_shows_the_law_as_the_page_does(table: Path) -> None:
    found = fit(read_points(pd.read_csv(table)[:9]), "kaplan-n", bootstrap=40)
    shown = found._repr_html_()
    assert shown.startswith(f"<p><b>{greek(at_reference(found))}</b></p>") and "α_N" in shown and "N_c" in shown
    assert re.search(r"<b>L = [0-9.]+ \(N / 1e7\)\^-0\.0\d+ \(-0\.\d+ to -0\.\d+\)</b>", shown)


def test_no_line_of_a_page_breaks_between_a_number_and_its_unit() -> None:
    stay = "<p title='2 M'>5 models, 3 kinds, 1 to 2</p><pre>1.94 M</pre>"
    kept = unbroken(f"<td>1.94 M</td><td>95 %</td><p>0.61 nats of 3 kB,\n40.0 GiB; 3\nM</p>{stay}")
    assert kept == f"<td>1.94\xa0M</td><td>95\xa0%</td><p>0.61\xa0nats of 3\xa0kB,\n40.0\xa0GiB; 3\xa0M</p>{stay}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--html", "laws.pdf"), "laws.pdf: expected a name that ends in .html"),
        (("--html", "none/laws.html"), "none"),
        ((), "--html"),
    ],
)
def test_mistakes_are_told(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call("report", table, "--law", "kaplan-n", *words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
