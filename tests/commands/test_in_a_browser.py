"""The pages in a real browser, on a phone: no error, no sideways scroll, text that can be read in light and in dark."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finished_run import put

from seqjax import runs
from seqjax.cli import main
from seqjax.sweeps.serving import Server

pytestmark = pytest.mark.slow
PHONE = {"width": 360, "height": 740}
LEAST_CONTRAST = 4.5  # of text, by WCAG 2.2, 1.4.3 (AA)

FAINT = """(least) => {
  const draw = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    draw.clearRect(0, 0, 1, 1);
    draw.fillStyle = colour;
    draw.fillRect(0, 0, 1, 1);
    return [...draw.getImageData(0, 0, 1, 1).data];
  };
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(rgb[i] / 255), 0.05);
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data).join("").trim();
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    let behind = element;
    while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const ours = light(rgba(element instanceof SVGElement ? style.fill : style.color));
    const theirs = light(behind ? rgba(getComputedStyle(behind).backgroundColor) : [255, 255, 255]);
    const ratio = Math.max(ours, theirs) / Math.min(ours, theirs);
    if (ratio < least) found.push(`${ratio.toFixed(2)}: ${text.slice(0, 60)}`);
  }
  return found;
}"""
"""JavaScript: the texts whose contrast with what is behind them is too small."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser is driven: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def report(tmp_path: Path) -> str:
    """The address of the report of a fit."""
    n = np.geomspace(1e5, 1e9, 9)
    noise = np.exp(2e-3 * np.random.default_rng(0).standard_normal(9))
    table = f"a_table_with_a_name_{'wider_than_' * 5}a_phone.csv"
    pd.DataFrame({"params": n, "loss": 9.0 * n**-0.07 * noise}).to_csv(tmp_path / table, index=False)
    words = ["report", table, "--law", "kaplan-n", "--bootstrap", "0", "--html", "laws.html"]
    assert main([str(tmp_path / word) if "." in word else word for word in words]) == 0
    return (tmp_path / "laws.html").as_uri()


@pytest.fixture
def watch(make_config: Any, tmp_path: Path) -> Iterator[str]:
    """The address of the page that watches runs of two families."""
    for family, rate in (("lstm", 1e-3), ("lstm", 1e-2), ("transformer", 1e-2)):
        folder = put(tmp_path / "runs", make_config(family, **{"optimizer.learning_rate": rate}), 2.0 + rate)
        runs.append_metrics(folder, {"step": 5, "tokens": 640, "loss": 3.0})
        runs.append_metrics(folder, {"step": 10, "tokens": 1280, "validation_loss": 2.5 + rate})
    with Server(tmp_path / "runs", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


def test_the_pages_can_be_read_on_a_phone(browser: Any, report: str, watch: str) -> None:
    for address, shown in ((report, "table tr"), (watch, "#table tr")):
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=PHONE, color_scheme=scheme)
            errors: list[str] = []
            page.on("console", lambda line, errors=errors: errors.append(line.text) if line.type == "error" else None)
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.goto(address)
            page.wait_for_selector(shown)
            assert not errors
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            assert page.evaluate(FAINT, LEAST_CONTRAST) == []
            page.close()
