"""The style of all figures: colours for colour-blind readers; markers and dashes that differ without colour."""

from __future__ import annotations

import contextlib
import io
import os
import textwrap
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from seqjax.errors import UserError, printable
from seqjax.host.disk import write_bytes_atomically
from seqjax.host.wording import power, si

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito 2008
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-")
NOTE_LETTER = 0.056  # inches that a letter of a footnote takes
FORMATS = (".png", ".svg", ".pdf")
RC = {
    "figure.constrained_layout.use": True,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.hashsalt": "seqjax",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a name is a dollar
}
NAMES = {
    "params": "parameters N",
    "tokens": "training tokens D",
    "flops": "training compute C (FLOPs)",
    "steps": "steps S",
    "position": "position in the context T (tokens)",
    "unique_tokens": "unique tokens U",
    "other_loss": "other loss L_0 (nats per token)",
    "loss": "loss (nats per token)",
}


def marker_of(place: int) -> str:
    """The marker of a place in a list; after the last they begin again."""
    return MARKERS[place % len(MARKERS)]


def dash_of(place: int) -> Any:
    """The dash of a place in a list; after the last they begin again."""
    return DASHES[place % len(DASHES)]


@contextlib.contextmanager
def _look() -> Iterator[None]:
    """This style over matplotlib's defaults, without the user's settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def shown(name: str, most: int = 60) -> str:
    """A user's name as text of a figure: one line, at most ``most`` characters, shown even if it begins with ``_``."""
    text = printable(name)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"
    return f"\u2060{text}" if text.startswith("_") else text  # legends leave out names that begin with an underscore


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """``draw`` with this style."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with _look():
            return draw(*args, **kwargs)

    return drawn


def figure(width: float, height: float, **grid: object) -> tuple[Figure, np.ndarray]:
    """A figure with axes [rows, columns], without pyplot's global state."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(squeeze=False, **grid)


def add_note(made: Figure, text: str) -> None:
    """A footnote of whole lines at the lower left, wrapped to the width of the figure."""
    letters = int(made.get_figwidth() / NOTE_LETTER)
    lines = [line for one in text.split("\n") for line in textwrap.wrap(one, letters)]
    made.supxlabel("\n".join(lines), fontsize=7, color="#555555", x=0.01, ha="left")


def check_name(path: Path) -> None:
    """Raise UserError for an unknown format, or a path that cannot be written."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    for bad, reason in (
        (path.is_dir(), "it is a folder"),
        (not parent.is_dir(), f"{parent} is not a folder"),
        (not os.access(parent, os.W_OK), "Permission denied"),
    ):
        if bad:
            raise UserError(f"{path}: cannot be written: {reason}")


def save(made: Figure, path: Path) -> None:
    """Write a figure atomically; the same figure gives the same bytes.

    Raises:
        UserError: another format than png, svg or pdf, or a path that cannot be written.
    """
    check_name(path)
    drawn = as_bytes(made, path.suffix[1:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, drawn)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def as_bytes(made: Figure, form: str, dpi: int = 160) -> bytes:
    """The figure as a file of this form: png, svg or pdf. Parts of it that are pixels have so many an inch."""
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with _look():
        made.draw_without_rendering()
        made.set_layout_engine("none")  # a second layout would differ a little
        made.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def amount(value: float) -> str:
    """Parameters or tokens as the field writes them: 124M, 1.4B."""
    return si(value).replace(" ", "").replace("G", "B")


def log_axis(axes: Axes, which: str, low: float, high: float, plain: bool = False, name: str = "") -> None:
    """A log axis with about three to eight labelled ticks: powers of ten, or 1-2-5 steps for few decades.

    Args:
        plain: labels as numbers, for losses.
        name: of the variable, as in `NAMES`: compute is labelled 1e18, others 10k, 1M, 1B. Axes that begin below
            0.001 are labelled as compute is.
    """
    in_powers = name == "flops" or (not plain and low < 1e-3)
    label = (lambda value: f"{value:.4g}") if plain else power if in_powers else amount
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(ticks_between(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))


def ticks_between(low: float, high: float) -> np.ndarray:
    """Round numbers from ``low`` to ``high``, three to eight if possible."""
    decades = np.log10(high / low)
    if decades >= 2.5:
        step = int(np.ceil(decades / 7))
        exponents = np.arange(np.ceil(np.log10(low) - 1e-9), np.log10(high) + 1e-9)
        return 10.0 ** exponents[::step]
    every = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for mantissas in (
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 7),
        tuple(np.arange(1, 10, 0.5)),
        tuple(np.arange(1, 10, 0.2)),
    ):
        ticks = np.array([m * 10.0**e for e in every for m in mantissas])
        ticks = ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
        if len(ticks) >= 3:
            return ticks
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]


def widened(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """Ends of a log axis for these values with a margin of ``share``."""
    logs = np.log(values[np.isfinite(values) & (values > 0)])
    room = share * max(np.ptp(logs), 0.05)
    return float(np.exp(logs.min() - room)), float(np.exp(logs.max() + room))
