"""Figures do not depend on names, on the user's matplotlib settings, or on the place they are written to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
import xml.etree.ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from quick import quick

from seqjax.cli import main
from seqjax.errors import UserError
from seqjax.host.disk import write_bytes_atomically
from seqjax.laws import fit, make_points
from seqjax.laws.fitting import Fit
from seqjax.laws.position import fit_position
from seqjax.laws.ratios import crossing, matched_ratio
from seqjax.plots import fits as figures
from seqjax.plots.positions import draw_positions
from seqjax.plots.style import check_name, save, shown


def line(scale: float) -> Fit:
    params = np.geomspace(1e4, 1e8, 12)
    noise = 5e-3 * np.random.default_rng(0).standard_normal(12)
    return fit(make_points((scale / params) ** 0.08 * np.exp(noise), params=params), "kaplan-n", bootstrap=0,
               diagnose=False)  # fmt: skip


FITS = (line(1e13), line(3e13))
NAMES = ["$$", "$x", "$\\frac{", "_base", "__", "a\nb", "x" * 400, "\x00\x07", "a_b^c{", "%&#~\\", "<b>&amp;", "ünï",
         "\udce9.txt", " ", "a\rb\u2028c", "-", "\\"]  # fmt: skip

PAIRS = list(zip(NAMES[::2], [*NAMES[1::2], "other"], strict=True))


@pytest.mark.parametrize(("name", "other"), quick(PAIRS, *PAIRS[::3]), ids=ascii)
def test_any_name_is_drawn_as_it_is(name: str, other: str, tmp_path: Path) -> None:
    groups = {name: FITS[0], other: FITS[1]}
    curve = (4.5 * np.arange(1.0, 65.0) ** -0.5 + 2, np.full(64, 0.01), None)
    made = [
        figures.draw_fits(groups, crossing(*FITS, names=(name, other))),
        draw_positions({name: curve, other: curve}, {name: fit_position(*curve[:2], bootstrap=0)}, {}),
        figures.draw_ratio(matched_ratio(*FITS), (name, other)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, one in enumerate(made):
            save(one, tmp_path / f"{number}.svg")
            save(one, tmp_path / f"{number}.png")
            xml.etree.ElementTree.parse(tmp_path / f"{number}.svg")
    words = made[0].legends[0].get_texts()
    for text, one in zip(words, (name, other), strict=True):
        assert text.get_text().startswith(f"{shown(one)}: 12 points")


@pytest.mark.parametrize(
    ("name", "text"),
    [("lstm", "lstm"), ("_a", "\u2060_a"), ("a\nb", "a\\nb"), ("x" * 61, "x" * 30 + "…" + "x" * 29), ("$$", "$$")],
)
def test_names_are_shown(name: str, text: str) -> None:
    assert shown(name) == text and len(shown(name)) <= 61


@pytest.mark.parametrize(
    "settings",
    [{"text.usetex": True}, {"savefig.bbox": "tight"}, {"font.family": "nothere"}, {"lines.linewidth": 9.0},
     {"figure.dpi": 30.0, "savefig.facecolor": "red"}, {"text.parse_math": True, "axes.formatter.use_mathtext": True}],
    ids=str,
)  # fmt: skip
def test_the_users_settings_change_no_figure(settings: dict[str, object], tmp_path: Path) -> None:
    save(figures.draw_fits({"a": FITS[0]}), tmp_path / "plain.svg")
    with matplotlib.rc_context(settings):
        save(figures.draw_fits({"a": FITS[0]}), tmp_path / "theirs.svg")
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "theirs.svg").read_bytes()


def test_neither_a_broken_matplotlibrc_nor_an_absent_backend_stops_a_figure(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"text.usetex: True\n\xff\xfe\nnonsense\n")
    script = (
        "from pathlib import Path; from seqjax.plots.style import figure, save, styled;"
        "made, axes = styled(figure)(3, 2); axes[0, 0].plot([1, 2]); save(made, Path('f.png'));"
        "import os; print(os.environ['MPLBACKEND'], Path('f.png').stat().st_size > 1000)"
    )
    for backend in ("nothere", "tkagg"):
        environment = {**os.environ, "MPLBACKEND": backend}
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True)
        assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, f"{backend} True\n", "")


@pytest.mark.parametrize(
    ("place", "words"),
    [("figure.bmp", "expected a name that ends in"), ("folder.svg", "a folder"), ("file/f.svg", "is not a folder"),
     ("file/deeper/f.svg", "is not a folder"), ("figure", "expected a name that ends in")],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_found_before_the_fit(
    place: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=words):
        check_name(tmp_path / place)
    assert main(["fit", str(tmp_path / "absent.csv"), "--plot", str(tmp_path / place)]) == 2
    assert words in capsys.readouterr().err  # not that the table is absent
    check_name(tmp_path / "new" / "folder" / "f.svg")


def test_a_link_keeps_its_place_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("link", "dangling"):
        write_bytes_atomically(tmp_path / name, b"now")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real").read_bytes() == (tmp_path / "new").read_bytes() == b"now"
    os.mkfifo(tmp_path / "pipe")
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes_atomically(tmp_path / "pipe", b"now")
    reader.join()
    assert heard == [b"now"] and (tmp_path / "pipe").is_fifo()
    (tmp_path / "device").symlink_to(os.devnull)
    write_bytes_atomically(tmp_path / "device", b"gone")
    assert not Path(os.devnull).is_file()
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes_atomically(tmp_path / "folder", b"now")
