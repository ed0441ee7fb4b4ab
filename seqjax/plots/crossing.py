"""The map: which of two families leads at each size and budget, the line where they cross, and its band."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from seqjax import families
from seqjax.families import FAMILIES
from seqjax.host.wording import si
from seqjax.laws.crossing import Place, common_sizes, cost_of, crossings, direct, gaps, outside_sizes, span_at
from seqjax.laws.intervals import bounds_of
from seqjax.laws.surfaces import Surface, sizes_of
from seqjax.plots.style import COLOURS, MARKERS, figure, log_axis, shown, styled

AXES = {
    "tokens": "training tokens D",
    "flops": "training compute C (FLOPs)",
    "seconds": "training time (seconds, as measured)",
}
LAW = "L = E + A / N^α + B / D^β"
NOTE_MAP = (
    f"Colour and line: {LAW}, fitted to each family; band and bars: 95 %, bootstrap over "
    "clusters of runs. Diamonds: the crossing read directly at one size, without a law. Hatched and dashed: beyond the "
    "data."
)
NOTE_CURVES = (
    f"Lines: {LAW}, fitted to each family; bands: 95 %, bootstrap over clusters of runs. "
    "Dotted: the crossing read directly, without a law."
)
GRID = 121
AROUND = 1.6  # the map goes so far beyond the data, as a factor
DOTS = (8.5, 4.5)
LINE = "#111111"
NEUTRAL = "#f7f7f5"  # where neither leads


@styled
def draw_map(
    surfaces: tuple[Surface, Surface], names: tuple[str, str], budgets: Sequence[str], stacked: bool = False
) -> Figure:
    """One panel a budget: colour by leader and depth by nats, the crossing with its 95 % band, runs as dots.

    Hatched: beyond the data. With one size in common, panels show the losses over the budget instead.

    Args:
        stacked: one panel below the other, for a narrow page.
    """
    several = min(int(sizes_of(s.points.variables["params"]).max()) for s in surfaces) > 0
    budgets = [b for b in budgets if b != "flops" or not _is_6nd(surfaces)] or list(budgets)
    rows, columns = (len(budgets), 1) if stacked else (1, len(budgets))
    made, axes = figure(1.2 + 4.6 * columns, 0.8 + 4.1 * rows, nrows=rows, ncols=columns)
    hues, labels = tuple(hues_of(names)), tuple(map(label, names))
    deepest = _deepest(surfaces)
    for ax, budget in zip(axes.flat, budgets, strict=True):
        if several:
            image = _panel(ax, surfaces, names, hues, budget, deepest)
        else:
            _curves(ax, surfaces, names, hues, budget)
    if several:
        bar = made.colorbar(image, ax=axes.ravel().tolist(), shrink=0.8 / rows, pad=0.02)
        gap = "\u2003\u2003"  # browsers draw several plain spaces of an SVG as one
        bar.set_label(f"← {labels[0]} leads{gap}nats per token{gap}{labels[1]} leads →")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.2g}")
    made.suptitle(f"Which has the lower loss: {labels[0]} or {labels[1]}?", fontsize=11)
    note = NOTE_MAP if several else NOTE_CURVES
    made.supxlabel(textwrap.fill(note, 45 + 55 * columns), fontsize=7, color="#555555", x=0.01, ha="left")
    return made


def hues_of(names: Sequence[str]) -> list[str]:
    """The colours of known families; others, or two alike, have the first of the palette."""
    known = {name: name.lower() for name in names if families.parts_of(name.lower())[0] in FAMILIES}
    found = [families.hues_of(known.values()).get(known.get(name), "") for name in names]
    return found if all(found) and len(set(found)) == len(found) else [COLOURS[1], COLOURS[0]]


def label(name: str) -> str:
    """A known family as papers write it; another group as it is."""
    return families.label_of(name) if families.parts_of(name)[0] in FAMILIES else shown(name, 24)


def _is_6nd(surfaces: Sequence[Surface]) -> bool:
    return all(s.points.conventions.get("flops") == "6 N D" for s in surfaces)


def _deepest(surfaces: tuple[Surface, Surface]) -> float:
    """The largest lead at a run, nats."""
    params, tokens = (np.concatenate([s.points.variables[v] for s in surfaces]) for v in ("params", "tokens"))
    return float(np.abs(surfaces[0].loss(params, tokens) - surfaces[1].loss(params, tokens)).max())


def _panel(
    ax: Axes, surfaces: tuple[Surface, Surface], names: tuple[str, str], hues: tuple[str, str], budget: str, most: float
) -> object:
    a, b = surfaces
    costs = cost_of(a.points, budget), cost_of(b.points, budget)
    sizes = np.concatenate([s.points.variables["params"] for s in surfaces])
    spent = np.concatenate([s.points.variables[budget] for s in surfaces])
    x = np.geomspace(sizes.min() / AROUND, sizes.max() * AROUND, GRID)
    y = np.geomspace(spent.min() / AROUND, spent.max() * AROUND, GRID)
    x_grid, y_grid = np.meshgrid(x, y)
    gap = gaps(a, b, x_grid.ravel(), y_grid.ravel(), costs)[0].reshape(x_grid.shape)
    colours = LinearSegmentedColormap.from_list("lead", [to_rgb(hues[0]), NEUTRAL, to_rgb(hues[1])])
    image = ax.pcolormesh(
        x_grid, y_grid, np.clip(gap, -most, most), cmap=colours, norm=TwoSlopeNorm(0, -most, most), shading="gouraud",
        rasterized=True,
    )  # fmt: skip
    beyond = np.array([[_beyond(a, b, n, u, costs) for n in x] for u in y], float)
    ax.contourf(x_grid, y_grid, beyond, [0.5, 1.5], colors="none", hatches=["////"])
    for patch in ax.collections[-1:]:
        patch.set(edgecolor="#00000055", linewidth=0.0)
    _line(ax, crossings(a, b, names, x[::4], budget))
    _direct(ax, direct(a.points, b.points, names, budget, len(a.draws)))
    for surface, hue, marker, size in zip(surfaces, hues, MARKERS, DOTS, strict=False):  # often in the same places
        ax.plot(surface.points.variables["params"], surface.points.variables[budget], marker, color=hue,
                mec="white", mew=0.9, ms=size, zorder=4)  # fmt: skip
    log_axis(ax, "x", x[0], x[-1])
    log_axis(ax, "y", y[0], y[-1], name=budget)
    ax.grid(False)
    ax.set_xlabel("parameters N")
    ax.set_ylabel(AXES[budget])
    dots = [
        Line2D([], [], ls="", marker=m, color=h, mec="white", mew=0.9, ms=s, label=f"{label(n)} runs")
        for n, h, m, s in zip(names, hues, MARKERS, DOTS, strict=False)
    ]
    ax.legend(
        handles=[Line2D([], [], color=LINE, lw=2, label="equal loss"), *dots,
                 Patch(facecolor="#ffffff", edgecolor="#00000088", hatch="////", label="beyond the data")],
        loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=4, handletextpad=0.4, columnspacing=1.0, fontsize=7,
    )  # fmt: skip
    return image


def _beyond(a: Surface, b: Surface, n: float, u: float, costs: tuple) -> bool:
    if outside_sizes(a.points, b.points, n):
        return True
    span = span_at(a.points, b.points, n, costs)
    return span is None or not span[0] <= u <= span[1]


def _line(ax: Axes, places: Sequence[Place]) -> None:
    """Solid within the data, dashed beyond; the band within."""
    inside = [p for p in places if not p.outside]
    n = np.array([p.params for p in inside])
    ends = np.array([(p.low, p.high) for p in inside]).reshape(-1, 2)
    if len(n) and np.isfinite(n).all() and not np.isnan(ends).any():
        bottom, top = ax.get_ylim()
        low, high = np.clip(ends, bottom, top).T
        ax.fill_between(n, low, high, color=LINE, alpha=0.22, lw=0)
    n = np.array([p.params for p in places])
    x = np.array([p.x if 0 < p.x < np.inf else np.nan for p in places])
    within = np.array([not p.beyond for p in places])
    ax.plot(n, x, ls=(0, (4, 2)), color=LINE, lw=1.0)
    ax.plot(n, np.where(within, x, np.nan), color=LINE, lw=2.0)


def _direct(ax: Axes, places: Sequence[Place]) -> None:
    for p in places:
        if p.beyond:
            continue
        if not np.isnan(p.low):
            bottom, top = max(p.low, p.span[0]), min(p.high, p.span[1])
            ax.plot([p.params] * 2, [bottom, top], color=LINE, lw=1.4, zorder=5)
        ax.plot(p.params, p.x, "D", color=LINE, ms=5, zorder=5)


def _curves(
    ax: Axes, surfaces: tuple[Surface, Surface], names: tuple[str, str], hues: tuple[str, str], budget: str
) -> None:
    """Losses of both families over the budget at the size that they have in common, with the crossing."""
    costs = [cost_of(s.points, budget) for s in surfaces]
    shared = [rows for _, *rows in common_sizes(*(s.points for s in surfaces))] or [[slice(None), slice(None)]]
    for surface, name, hue, marker, cost, rows in zip(surfaces, names, hues, MARKERS, costs, shared[0], strict=False):
        n = float(np.exp(np.log(surface.points.variables["params"][rows]).mean()))
        spent = surface.points.variables[budget][rows]
        line = np.geomspace(spent.min(), spent.max(), 100)
        ax.plot(line, surface.loss(np.full(100, n), line / cost(n)), color=hue, lw=1.5)
        if len(surface.draws):
            drawn = surface.loss(np.full(100, n), line / cost(n), surface.draws)
            ax.fill_between(line, *bounds_of(drawn), color=hue, alpha=0.18, lw=0)
        ax.plot(spent, surface.points.loss[rows], marker, color=hue, mfc="white", mew=1.2, ms=5,
                label=f"{label(name)}, N = {si(n).strip()}")  # fmt: skip
    for place in direct(surfaces[0].points, surfaces[1].points, names, budget, len(surfaces[0].draws)):
        if not place.beyond:
            ax.axvline(place.x, color=LINE, lw=1.0, ls=":", label=f"equal loss (direct): {si(place.x).strip()}")
            if not np.isnan(place.low):
                ax.axvspan(max(place.low, place.span[0]), min(place.high, place.span[1]), color=LINE, alpha=0.12, lw=0)
    log_axis(ax, "x", *_around(np.concatenate([s.points.variables[budget] for s in surfaces])), name=budget)
    ax.set_xlabel(AXES[budget])
    ax.set_ylabel("loss (nats per token)")
    ax.legend(loc="upper right")


def _around(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()) / 1.15, float(values.max()) * 1.15
