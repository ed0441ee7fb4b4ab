"""The inside of trained models on one text: loss of each token, states and gates over time, attention of every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure

from seqjax.errors import printable
from seqjax.plots.labels import looks_of_named
from seqjax.plots.style import shown, styled

TITLES = {  # in the order of the figure: output, cell state, gates; what only a family has comes after them
    "h": "state h",
    "c": "cell state c",
    "f": "forget gate f",
    "i": "input gate i",
    "g": "candidate g",
    "o": "output gate o",
    "z": "update gate z",
    "r": "reset gate r",
    "n": "candidate n",
    "a": "decay a",
}
SIGNED = ("c", "h", "g", "n")
LABEL_INCHES = 0.12  # of one label of an axis


class Reading(NamedTuple):
    """One model's reading of T tokens.

    Attributes:
        loss_T: nats; NaN for tokens without a prediction.
        attention_LxNxTxT: attention weights, or None.
        gates_LxTxH, states_LxTxH: by name; both may be empty. Gates may have another last axis, such as heads.
        titles: of the family, see `Family.titles`. What neither they nor `TITLES` name is not drawn.
    """

    label: str
    loss_T: np.ndarray
    attention_LxNxTxT: np.ndarray | None
    gates_LxTxH: dict[str, np.ndarray]
    states_LxTxH: dict[str, np.ndarray]
    titles: Mapping[str, str] = {}

    def drawn(self) -> dict[str, str]:
        """The titles of what is drawn over time, by name and in order."""
        known = {**TITLES, **self.titles}
        return {name: title for name, title in known.items() if name in _arrays(self)}


def liveliest(h_TxH: np.ndarray, count: int) -> np.ndarray:
    """The `count` units whose output h has the largest variance over the text, in this order."""
    return np.argsort(-h_TxH.astype(np.float64).var(axis=0), kind="stable")[:count]


def visible(piece: str) -> str:
    """A token with visible blanks: a space as ␣, a line end as ↵, a tab as →."""
    return printable(piece.replace(" ", "␣").replace("\n", "↵").replace("\t", "→").replace("\r", "←"))


@styled
def draw_inspection(
    pieces: Sequence[str], readings: Sequence[Reading], layer: int | None = None, units: int = 12
) -> Figure:
    """Top: loss of each token. Below, on the same axis: states and gates. Then the attention maps.

    Args:
        pieces: the T tokens as text.
        layer: show only this layer, from 0. None: the last one of recurrent models, all blocks of others.
        units: maximal number of units of a layer, chosen by `liveliest`. States and gates show the same units where
            they have those of h.
    """
    labels = [visible(piece) for piece in pieces]
    width = float(np.clip(0.2 * len(labels) + 2.4, 7.5, 20.0))
    stacks = [(reading, name) for reading in readings for name in reading.drawn()]
    heads = [reading for reading in readings if reading.attention_LxNxTxT is not None]
    heights = [0.16 * min(units, _arrays(reading)[name].shape[-1]) + 0.45 for reading, name in stacks]
    top = [2.5 + 0.06 * max(map(len, labels)), *heights]
    shapes = [_shape(reading, layer, width) for reading in heads]
    parts = [sum(top), *(rows * size + 1.0 for rows, _, size in shapes)]
    made = Figure(figsize=(width, sum(parts)), layout="constrained")
    folders = made.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    _draw_over_time(folders[0], labels, readings, stacks, top, layer, units)
    for folder, reading, (_, _, size) in zip(folders[1:], heads, shapes, strict=True):
        _draw_heads(folder, labels, reading, layer, size)
    return made


def _arrays(reading: Reading) -> dict[str, np.ndarray]:
    return reading.states_LxTxH | reading.gates_LxTxH


def _shape(reading: Reading, layer: int | None, width: float) -> tuple[int, int, float]:
    """Rows and columns of maps, and the width of a map in inches."""
    blocks, heads = reading.attention_LxNxTxT.shape[:2]
    return (blocks if layer is None else 1), heads, min((width - 1.2) / heads, 4.5)


def _draw_over_time(
    place: SubFigure,
    labels: Sequence[str],
    readings: Sequence[Reading],
    stacks: Sequence[tuple[Reading, str]],
    heights: Sequence[float],
    layer: int | None,
    units: int,
) -> None:
    axes = place.subplots(
        len(heights), 2, squeeze=False, gridspec_kw={"width_ratios": [60, 1], "height_ratios": heights}
    )
    axes[0, 1].axis("off")
    _draw_losses(axes[0, 0], labels, readings)
    for (ax, bar), (reading, name) in zip(axes[1:], stacks, strict=True):
        _draw_units(ax, bar, reading, name, layer, units)
        ax.set_xlim(-0.5, len(labels) - 0.5)
        ax.set_xticks([])
    if stacks:
        _label_tokens(axes[-1, 0], "x", labels, axes[-1, 0].figure.figure.get_figwidth())


def _draw_losses(ax: Axes, labels: Sequence[str], readings: Sequence[Reading]) -> None:
    looks = looks_of_named(f"{reading.label} {number}" for number, reading in enumerate(readings))
    for reading, look in zip(readings, looks.values(), strict=True):
        mean = np.nanmean(reading.loss_T)
        ax.plot(
            reading.loss_T, color=look.colour, ls=look.dash, marker=look.marker, ms=4, lw=1.0,
            label=f"{shown(reading.label)}: mean {mean:.2f}",
        )  # fmt: skip
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_ylim(0, 1.05 * max(np.nanmax(reading.loss_T) for reading in readings))
    ax.set_ylabel("loss (nats)")
    ax.set_title("loss of each token, given those before it (the first is given)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.12), borderaxespad=0, ncols=2)
    _label_tokens(ax, "x", labels, ax.figure.figure.get_figwidth())


def _draw_units(ax: Axes, bar: Axes, reading: Reading, name: str, layer: int | None, units: int) -> None:
    values_LxTxH = _arrays(reading)[name]
    index = len(values_LxTxH) - 1 if layer is None else layer
    h_LxTxH = reading.states_LxTxH.get("h")
    has_units_of_h = h_LxTxH is not None and h_LxTxH.shape == values_LxTxH.shape
    chosen = liveliest((h_LxTxH if has_units_of_h else values_LxTxH)[index], units)
    values_UxT = values_LxTxH[index][:, chosen].T
    largest = float(np.abs(values_UxT).max())
    reach = largest or 1.0 if name == "c" else max(1.0, largest)  # a linear recurrence is not bounded by 1
    if (name in SIGNED and name not in reading.titles) or values_UxT.min() < 0:
        look = {"cmap": "PuOr_r", "vmin": -reach, "vmax": reach}
    else:
        look = {"cmap": "cividis", "vmin": 0.0, "vmax": reach}
    image = ax.imshow(values_UxT, aspect="auto", interpolation="nearest", **look)
    ax.figure.colorbar(image, cax=bar)
    bar.tick_params(labelsize=6)
    ax.set_yticks(range(len(chosen)), [str(unit) for unit in chosen], fontsize=6)
    ax.set_ylabel("unit")
    ax.grid(False)
    ax.set_title(f"{shown(reading.label)}, layer {index + 1}: {reading.drawn()[name]}", loc="left", fontsize=8.5)


def _draw_heads(place: SubFigure, labels: Sequence[str], reading: Reading, layer: int | None, size: float) -> None:
    maps_LxNxTxT = reading.attention_LxNxTxT
    blocks = range(len(maps_LxNxTxT)) if layer is None else [layer]
    axes = place.subplots(len(blocks), maps_LxNxTxT.shape[1], squeeze=False, sharex=True, sharey=True)
    seen_TxT = np.tril(np.ones(maps_LxNxTxT.shape[2:], bool))
    shades = matplotlib.colormaps["cividis"].with_extremes(bad="#eeeeee")
    scale = PowerNorm(0.5, 0.0, 1.0)  # most weights are small
    for row, block in zip(axes, blocks, strict=True):
        for head, ax in enumerate(row):
            weights_TxT = np.where(seen_TxT, maps_LxNxTxT[block, head], np.nan)
            ax.imshow(weights_TxT, cmap=shades, norm=scale, interpolation="nearest")
            ax.set_title(f"block {block + 1}, head {head + 1}", fontsize=8)
            ax.grid(False)
    for ax in axes[-1]:
        _label_tokens(ax, "x", labels, size)
    for ax in axes[:, 0]:
        _label_tokens(ax, "y", labels, size)
    place.supxlabel("token looked at (key)", fontsize=8)
    place.supylabel("token that looks (query)", fontsize=8)
    place.suptitle(f"{shown(reading.label)}: attention; each row sums to 1, grey is what comes later", fontsize=9.5)
    place.colorbar(
        ScalarMappable(scale, "cividis"), ax=axes, shrink=min(1.0, 2.2 / (len(blocks) * size)), label="weight", pad=0.01
    )


def _label_tokens(ax: Axes, which: str, labels: Sequence[str], inches: float) -> None:
    """Tokens as ticks; every k-th if not all fit."""
    every = int(np.ceil(len(labels) * LABEL_INCHES / inches))
    places = range(0, len(labels), every)
    shown = [labels[place] for place in places]
    turned = {"rotation": 90} if which == "x" and max(map(len, shown)) > 1 else {}
    (ax.set_xticks if which == "x" else ax.set_yticks)(places, shown, fontsize=7, family="monospace", **turned)
