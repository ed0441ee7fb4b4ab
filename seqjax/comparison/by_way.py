"""Many families in one comparison: grouped by their way through time (see `seqjax.families.THROUGH_TIME`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from seqjax.comparison.judging import LSTM
from seqjax.comparison.measured import Comparison
from seqjax.families import by_way, hues_of, label_of, way_of
from seqjax.host.wording import si
from seqjax.plots.style import NAMES, dash_of, figure, log_axis, marker_of, styled, widened

MANY = 6  # kinds that one legend inside its axes has room for
OTHERS = "of your own"


def are_many(kinds: Iterable[str]) -> bool:
    """Whether figures group these kinds."""
    return len(set(kinds)) > MANY


def look_in_group(kind: str, kinds: Iterable[str]) -> dict[str, Any]:
    """Marker and dash of a kind, by its place among the kinds of its way."""
    place = [other for other in by_way(kinds) if way_of(other) == way_of(kind)].index(kind)
    return {"marker": marker_of(place), "ls": dash_of(place)}


def grouped_legend(made: Figure, lines: Sequence[tuple[str, Artist]]) -> None:
    """A legend beside the axes: under each way through time its lines.

    Args:
        lines: (kind, labelled line), in the order of `by_way`.
    """
    handles: list[Artist] = []
    for way in dict.fromkeys(way_of(kind) for kind, _ in lines):
        handles.append(Line2D([], [], alpha=0, label=way or OTHERS))
        handles += [line for kind, line in lines if way_of(kind) == way]
    legend = made.legend(handles=handles, loc="outside right upper")
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if getattr(handle, "get_alpha", lambda: None)() == 0 else "normal")


@styled
def draw_families(c: Comparison) -> Figure:
    """A column for each way through time, its families in colour, the other ways in grey behind them.

    Above: mean loss against parameters, best depth. Below: loss by position at the largest size that all have.
    """
    kinds = by_way(model.kind for model in c.models if model.context == c.chains.context)
    ways, hues = list(dict.fromkeys(map(way_of, kinds))), hues_of(kinds)
    size = c.sizes(*kinds)[-1]
    made, axes = figure(0.6 + 3.0 * len(ways), 6.6, nrows=2, ncols=len(ways), sharey="row")
    for column, way in zip(axes.T, ways, strict=True):
        for kind in sorted(kinds, key=lambda kind: way_of(kind) == way):  # those in colour over the others
            grey = {"color": "#cccccc", "lw": 0.8, "zorder": 1}
            own = {"color": hues[kind], "lw": 1.5, "ms": 5, "mfc": "white", "mew": 1.2, "label": label_of(kind)}
            look = own | look_in_group(kind, kinds) if way_of(kind) == way else grey
            models = [c.best(kind, rank) for rank in c.sizes(kind)]
            column[0].plot([c.models[m].params for m in models], c.mean_SxM[0, models], **look)
            by_position = c.loss_SxMxP[0, c.best(kind, size), :-1]
            column[1].plot(c.chains.centers(), by_position, **{k: v for k, v in look.items() if k != "marker"})
        column[0].set_title(way or OTHERS)
    _finish(c, axes, size)
    return made


def _finish(c: Comparison, axes: np.ndarray, size: int) -> None:
    """Axes, names and legends."""
    here = [i for i, model in enumerate(c.models) if model.context == c.chains.context]
    params = np.array([c.models[i].params for i in here], float)
    of_size = [i for i in here if c.models[i].size == size]
    for above, below in axes.T:
        log_axis(above, "x", *widened(params, 0.12))
        _loss_axis(above, c.mean_SxM[0, here], below=0.35)
        log_axis(below, "x", 0.9, c.chains.context * 1.15, plain=True)
        _loss_axis(below, c.loss_SxMxP[0, of_size, :-1])
        above.set_xlabel("non-embedding parameters N")
        below.set_xlabel(NAMES["position"])
        above.legend(loc="lower left")
    axes[0, 0].set_ylabel(NAMES["loss"])
    n = si(float(np.median([c.models[i].params for i in of_size]))).strip()
    axes[1, 0].set_ylabel(f"loss at N = {n} (nats per token)")


def _loss_axis(ax: Axes, losses: np.ndarray, below: float = 0.0) -> None:
    """A logarithmic axis of losses with a share ``below`` them for the legend."""
    low, high = widened(np.asarray(losses, float).ravel())
    log_axis(ax, "y", low * (low / high) ** below, high, plain=True)


def table_of_families(c: Comparison, chosen: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, grouped by way: parameters, loss and rate at each size; how far it is ahead of the LSTM.

    Args:
        chosen: the runs of these models, with their rates.
    """
    kinds = by_way(model.kind for model in c.models if model.context == c.chains.context)
    sizes = c.sizes(*kinds)
    rates = chosen.set_index("run_id")["optimizer.learning_rate"]
    heads = ["through time", "model"]
    for _ in sizes:
        heads += ["N", "nats/token", "rate"]
    rows = []
    for kind in kinds:
        row = [way_of(kind) or OTHERS, label_of(kind)]
        for size in sizes:
            model = c.best(kind, size)
            rate = rates.get(c.models[model].run_ids[0])
            row += [
                f"{c.models[model].params:,.0f}",
                f"{c.mean_SxM[0, model]:.3f}",
                "-" if rate is None else f"{rate:g}",
            ]
        rows.append([*row, ahead(c, kind, sizes[-1])])
    return [*heads, "ahead of the LSTM by"], rows


def as_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def ahead(c: Comparison, kind: str, size: int) -> str:
    """How far a kind is ahead of the LSTM of its size, nats per token with the 95 % interval; "-": there is no LSTM."""
    if kind == LSTM or size not in c.sizes(LSTM):
        return "-"
    value, low, high = c.interval(c.mean_SxM[:, c.best(LSTM, size)] - c.mean_SxM[:, c.best(kind, size)])
    return f"{value:+.3f}" + ("" if np.isnan(low) else f" ({low:+.3f} to {high:+.3f})")
