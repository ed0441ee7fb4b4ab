"""Figures: the numbers that they show are those of the fit, their ticks can be read, and files are whole."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from quick import quick

from seqjax.comparison.figures import draw_contexts
from seqjax.errors import UserError
from seqjax.families import FAMILIES
from seqjax.laws import LAWS, envelope, fit, isoflops, make_points
from seqjax.laws.fitting import Fit
from seqjax.laws.position import fit_position, plateau
from seqjax.laws.ratios import crossing, matched_ratio
from seqjax.laws.selecting import LeftOut
from seqjax.plots import fits as figures
from seqjax.plots.labels import looks_of
from seqjax.plots.positions import draw_positions
from seqjax.plots.style import COLOURS, DASHES, MARKERS, save, ticks_between


@functools.cache
def line(scale: float = 1e13, seed: int = 0) -> Fit:
    params = np.geomspace(1e4, 1e8, 12)
    noise = 5e-3 * np.random.default_rng(seed).standard_normal(12)
    return fit(make_points((scale / params) ** 0.08 * np.exp(noise), params=params), "kaplan-n", bootstrap=50)


def test_a_line_shows_its_points_its_law_and_its_constants() -> None:
    found = {"lstm": line(3e13, 1), "transformer": line(1e13, 2)}
    made = figures.draw_fits(found, crossing(*found.values(), names=tuple(found)))
    top, bottom = made.axes
    drawn = [artist for artist in top.get_lines() if len(artist.get_xdata()) == 12]
    for artist, of in zip(drawn, found.values(), strict=True):
        np.testing.assert_array_equal(artist.get_xdata(), of.points.variables["params"])
        np.testing.assert_array_equal(artist.get_ydata(), of.points.loss)
    laws = [artist for artist in top.get_lines() if len(artist.get_xdata()) == 200]
    for artist, of in zip(laws, found.values(), strict=True):
        np.testing.assert_allclose(artist.get_ydata(), of.law.loss(of.theta, {"params": artist.get_xdata()}))
    residuals = [artist for artist in bottom.get_lines() if len(artist.get_xdata()) == 12]
    np.testing.assert_allclose(residuals[0].get_ydata(), 100 * np.expm1(found["lstm"].residuals))
    (legend,) = made.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert "LSTM: 12 points\nL = 3.972" in words[0] and "(N / 1e6)^-0.08" in words[0] and " to " in words[0]
    made.draw_without_rendering()
    boxes = [part.get_window_extent() for part in (legend, top.title, top)]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))  # text is never over data
    assert len({artist.get_color() for artist in laws}) == len({str(a.get_linestyle()) for a in laws}) == 2


@pytest.mark.parametrize("count", quick([1, 4, 5, 6, 7, 8, 15], 1, 8))
def test_any_number_of_groups_is_drawn(tmp_path: Path, count: int) -> None:
    """Some dashes are patterns of lengths, which `plot` takes for data unless they are named."""
    found = dict.fromkeys((f"group {number}" for number in range(count)), line())
    laws = [artist for artist in figures.draw_fits(found).axes[0].get_lines() if len(artist.get_xdata()) == 200]
    assert len(laws) == count
    curves = dict.fromkeys(found, (np.geomspace(5, 2, 64), np.full(64, 0.01), None))
    positions = dict.fromkeys(found, fit_position(*curves["group 0"][:2], bootstrap=40))
    made = draw_positions(curves, positions)
    labels = made.legends[0].get_texts()
    assert len(labels) == count


def test_models_of_one_family_and_size_are_told_apart() -> None:
    curves = dict.fromkeys(("ours", "theirs"), (np.geomspace(5, 2, 64), np.full(64, 0.01), None))
    made = draw_positions(curves, groups=dict.fromkeys(curves, ("transformer", 1e6)))
    lines = [artist for artist in made.axes[0].get_lines() if len(artist.get_xdata()) > 2]
    assert len({artist.get_color() for artist in lines}) == 1
    drawn = [artist for artist in lines if artist.get_linestyle() != "None"]
    marks = [artist for artist in lines if artist.get_marker() not in (None, "None", "")]
    assert len({artist.get_linestyle() for artist in drawn}) == 2
    assert len({artist.get_markerfacecolor() for artist in marks}) == 2


@pytest.mark.parametrize("count", quick([2, 7, 12, 25], 25))
def test_many_groups_have_colours_of_their_own_and_cover_nothing(count: int) -> None:
    """The legend, the title, the footnote and both axes are inside the figure, and none is over another."""
    rule = "not `model.n_layers` > 1 and `train.seed` == 0 and `data.corpus` == 'english' and one thing more"
    fitted = replace(line(), points=replace(line().points, left_out=(LeftOut("row 1", rule),)))
    for draw in (figures.draw_fits, figures._draw_measured_against_predicted):
        made = draw(dict.fromkeys((f"corpus {k}" for k in range(count)), fitted), by="data.corpus")
        (legend,) = made.legends
        assert legend.get_title().get_text() == "data.corpus"
        colours = [mark.get_color() for mark in legend.legend_handles]
        assert len(set(colours)) == len(colours) == count
        made.draw_without_rendering()
        parts = [legend, made._supxlabel, made.axes[0].title, *made.axes]
        boxes = [part.get_window_extent() for part in parts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        assert all(made.bbox.containsx(x) and made.bbox.containsy(y) for box in boxes for x, y in box.get_points())
        assert rule in made._supxlabel.get_text().replace("\n", " ")


@pytest.mark.parametrize("groups", [("",), ("lstm", "transformer")])
def test_a_legend_of_families_or_of_one_group_needs_no_title(groups: tuple[str, ...]) -> None:
    (legend,) = figures.draw_fits(dict.fromkeys(groups, line()), by="family").legends
    assert legend.get_title().get_text() == ""


def test_sizes_that_a_parabola_leaves_out_are_small_and_named() -> None:
    flops = np.repeat([1e17, 1e18, 1e19], 9)
    params = np.sqrt(flops / 6) * np.tile(np.geomspace(1 / 30, 30, 9), 3)
    loss = 1.8 + 400 / params**0.34 + 400 / (flops / 6 / params) ** 0.34
    note = "too far from the best size for the parabola"
    for window, small in ((3.0, True), (1e9, False)):
        found = isoflops(make_points(loss, params=params, flops=flops), bootstrap=40, window=window)
        made = figures.draw_isoflops(found)
        sizes = [dots.get_markersize() for dots in made.axes[0].get_lines() if len(dots.get_xdata())]
        assert (3.0 in sizes) == small == (note in made._supxlabel.get_text().replace("\n", " "))


def test_numbers_are_shaded_in_their_order() -> None:
    """Budgets out of order as text: 1e9 is before 2e18, and darker shades are of larger ones."""
    looks = looks_of(["2e18", "1e9", "30", "1e20"])
    grey = {name: sum(to_rgb(look.colour)) for name, look in looks.items()}
    assert grey["30"] > grey["1e9"] > grey["2e18"] > grey["1e20"]
    assert looks_of(["lstm", *map(str, range(9))])["lstm"].colour == FAMILIES["lstm"].colour


def test_a_surface_has_contours_and_the_best_split() -> None:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    loss = 1.8 + 400 / n**0.34 + 600 / d**0.3
    starts = LAWS["chinchilla"].starts_SxP()[::50]
    found = fit(make_points(loss, params=n, tokens=d), "chinchilla", bootstrap=40, diagnose=False, starts_SxP=starts)
    made = figures.draw_fits({"": found})
    plane = made.axes[0]
    best = next(a for a in plane.get_lines() if a.get_label().startswith("compute-optimal"))
    x, y = best.get_xdata(), best.get_ydata()
    slope = np.polyfit(np.log(6 * x * y), np.log(x), 1)[0]
    np.testing.assert_allclose(slope, 0.3 / 0.64, atol=0.01)
    assert plane.get_xlabel() == "parameters N" and plane.get_ylabel() == "training tokens D"


def test_the_other_figures_are_made(tmp_path: Path) -> None:
    flops = np.repeat([1e17, 1e18, 1e19], 7)
    params = np.sqrt(flops / 6) * np.tile(np.geomspace(1 / 3, 3, 7), 3)
    loss = 1.8 + 400 / params**0.34 + 400 / (flops / 6 / params) ** 0.34
    positions = 2.9 + 4.5 * np.arange(1.0, 257.0) ** -0.56
    error = np.full(256, 0.01)
    curves = {}
    for size in np.geomspace(1e6, 1e9, 13):
        compute = np.geomspace(6 * size * size, 6 * size * size * 1000, 30)
        curves[size] = (compute, 1.8 + 400 / size**0.34 + 400 / (compute / 6 / size) ** 0.34)
    made = [
        figures.draw_envelope(curves, envelope(curves, bootstrap=50), title="family lstm"),
        figures.draw_isoflops(
            isoflops(make_points(loss, params=params, flops=flops), bootstrap=40), title="family gru"
        ),
        draw_positions(
            {"transformer": (positions, error, None)},
            {"transformer": fit_position(positions, error, bootstrap=40)},
            {"transformer": plateau(positions, error)},
        ),
        figures.draw_ratio(matched_ratio(line(3e13, 1), line(1e13, 2)), ("lstm", "transformer")),
    ]
    assert [figure.get_suptitle() for figure in made] == ["family lstm", "family gru", "", ""]
    for number, one in enumerate(made):
        for form in ("svg", "png", "pdf") if number == 0 else ("svg",):
            path = tmp_path / f"{number}.{form}"
            save(one, path)
            assert path.stat().st_size > 3000
            first = path.read_bytes()
            save(one, path)
            assert path.read_bytes() == first  # the same figure, the same bytes


@pytest.mark.parametrize(("low", "high"), [(1e3, 1e9), (2.1, 2.9), (2.31, 2.34), (1.0, 5.0), (3e5, 4e6), (1.0, 1e15)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    ticks = ticks_between(low, high)
    assert all(float(f"{tick:.3g}") == pytest.approx(tick, rel=1e-12) for tick in ticks)
    assert 2 < len(ticks) <= 12 and (ticks >= low * 0.999).all() and (ticks <= high * 1.001).all()


def test_contexts_of_several_seeds_are_means_with_their_seeds() -> None:
    runs = pd.DataFrame(
        [
            {"kind": "lstm", "model.n_layers": 1, "params_non_embedding": 1e4, "train.context_length": length,
             "train.seed": seed, "loss": 3.0 - 0.1 * place + 0.04 * seed, "loss_se": 0.01}
            for place, length in enumerate((8, 32, 128)) for seed in range(1 if length == 8 else 2)
        ]
    )  # fmt: skip
    dots, line, *_ = draw_contexts(runs).axes[0].get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[8, 3.0], [32, 2.92], [128, 2.82]])
    assert len(dots.get_xdata()) == 4 and dots.get_linestyle() == "None"


def test_a_family_has_one_look_whatever_is_beside_it() -> None:
    alone, both, other = looks_of(["LSTM"]), looks_of(["transformer", "lstm"]), looks_of(["2", "lstm", "1"])
    assert alone["LSTM"] == both["lstm"] == other["lstm"] and both["lstm"].colour == FAMILIES["lstm"].colour
    assert len({look.colour for look in other.values()}) == 3
    curves = {name: (np.geomspace(5, 2, 64), np.full(64, 0.01), None) for name in ("b", "c", "a")}
    groups = {"a": ("lstm", 1e3), "b": ("gru", 1e3), "c": ("lstm", 1e4)}
    bars = draw_positions(curves, groups=groups).axes[0].containers
    hues = [bar.lines[0].get_color() for bar in bars]
    assert hues == [FAMILIES[family].colour for family in ("gru", "lstm", "lstm")]
    assert bars[1].lines[0].get_markersize() > bars[2].lines[0].get_markersize()  # of the larger one


def test_neighbouring_looks_differ_in_grey() -> None:
    """By marker and by dash; colour is not needed to tell them apart."""
    assert len(set(MARKERS)) == len(MARKERS) and len({str(d) for d in DASHES[:6]}) == 6
    assert len(set(COLOURS)) == len(COLOURS)


def test_a_name_without_a_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in .png, .svg, .pdf"):
        save(figures.draw_fits({"": line()}), tmp_path / "figure.bmp")


def test_forms_of_a_family_share_its_mark_and_keep_their_shade() -> None:
    alone, beside = looks_of(["transformer gpt2"]), looks_of(["gru", "Transformer modern", "transformer gpt2", "a"])
    assert alone["transformer gpt2"] == beside["transformer gpt2"] != beside["Transformer modern"]
    assert beside["transformer gpt2"].marker == beside["Transformer modern"].marker
    assert beside["Transformer modern"] == looks_of(["transformer"])["transformer"]
    assert beside["gru"] == looks_of(["gru"])["gru"]
