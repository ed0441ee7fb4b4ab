"""The figure of a text inside models: what is drawn, and that it stays legible."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from quick import quick

from seqjax.families import FAMILIES
from seqjax.models import build_model
from seqjax.models.inside import look_inside
from seqjax.plots.inspection import Reading, draw_inspection, liveliest, visible
from seqjax.plots.style import save

RNG = np.random.default_rng(0)


def lstm(times: int, layers: int = 2, width: int = 20) -> Reading:
    gates = {name: RNG.uniform(size=(layers, times, width)) for name in "ifgo"}
    states = {name: RNG.normal(size=(layers, times, width)) for name in "hc"}
    return Reading("lstm 2x20", np.r_[np.nan, RNG.exponential(size=times - 1)], None, gates, states)


def transformer(times: int, blocks: int = 2, heads: int = 3) -> Reading:
    scores = np.where(np.tri(times, dtype=bool), RNG.exponential(size=(blocks, heads, times, times)), 0)
    weights = scores / scores.sum(axis=-1, keepdims=True)
    return Reading("transformer 2x16", np.r_[np.nan, RNG.exponential(size=times - 1)], weights, {}, {})


def titles(made: Figure) -> list[str]:
    return [ax.get_title() + ax.get_title(loc="left") for ax in made.findobj(Axes)]


def test_every_gate_and_every_head_has_its_panel(tmp_path: Path) -> None:
    made = draw_inspection(list("to be or not\n"), [transformer(13), lstm(13)])
    found = titles(made)
    for head in range(1, 4):
        assert f"block 1, head {head}" in found and f"block 2, head {head}" in found
    for name in ("cell state c", "forget gate f", "input gate i", "candidate g", "output gate o"):
        assert f"lstm 2x20, layer 2: {name}" in found
        assert f"lstm 2x20, layer 1: {name}" not in found
    save(made, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_one_layer_alone() -> None:
    found = titles(draw_inspection(list("to be"), [transformer(5), lstm(5)], layer=0))
    assert "lstm 2x20, layer 1: cell state c" in found and "block 1, head 2" in found
    assert "block 2, head 2" not in found and "lstm 2x20, layer 2: cell state c" not in found


def test_the_units_drawn_are_those_that_vary_most() -> None:
    h_TxH = np.outer(np.array([-1.0, 1, -1, 1]), [1.0, 3, 2, 0]) + np.array([9, 0, 0, 50])
    assert liveliest(h_TxH, 2).tolist() == [1, 2]
    assert liveliest(h_TxH, 9).tolist() == [1, 2, 0, 3]
    reading = lstm(6)
    made = draw_inspection(list("abcdef"), [reading], units=5)
    (ax,) = [ax for ax in made.axes if ax.get_title(loc="left").endswith("forget gate f")]
    chosen = [int(label.get_text()) for label in ax.get_yticklabels()]
    assert chosen == np.argsort(-reading.states_LxTxH["h"][1].var(axis=0))[:5].tolist()
    np.testing.assert_array_equal(ax.images[0].get_array(), reading.gates_LxTxH["f"][1][:, chosen].T)


def test_long_texts_are_labelled_where_labels_fit() -> None:
    made = draw_inspection(["abc"] * 300, [transformer(300, 1, 1)])
    (ax,) = [ax for ax in made.axes if ax.get_title() == "block 1, head 1"]
    assert 10 <= len(ax.get_xticks()) <= 60
    assert made.get_figwidth() <= 20


def test_blanks_are_seen() -> None:
    assert visible(" a\n\t") == "␣a↵→"


@pytest.mark.parametrize("name", quick(FAMILIES, "slstm", "mamba2", "mlstm"))
def test_every_family_is_drawn(name: str) -> None:
    family = FAMILIES[name](d_model=16, n_layers=2)
    tokens_T = np.arange(6) % 5
    params = jax.jit(build_model(family, 5, 6).init)(jax.random.key(0), tokens_T[None])["params"]
    inside = look_inside(family, params, tokens_T)
    reading = Reading(name, np.r_[np.nan, np.ones(5)], *inside[1:], family.titles)
    made = draw_inspection(list("abcdef"), [reading])
    for title in reading.drawn().values():
        assert f"{name}, layer 2: {title}" in titles(made)
    left = set(inside.states_LxTxH | inside.gates_LxTxH) - set(reading.drawn())
    assert left <= {"S", "x"}, "a matrix and the residual stream are not drawn, all else is"
    assert bool(reading.drawn()) == (name not in ("retention", "transformer", "window"))


def test_letters_mean_what_the_family_says() -> None:
    gates = {"z": np.linspace(-0.6, 0.8, 24).reshape(1, 6, 4), "o": np.full((1, 6, 4), 0.5)}
    states = {"h": RNG.normal(size=(1, 6, 4)), "n": RNG.uniform(1, 7, size=(1, 6, 4))}
    reading = Reading("slstm 1x4", np.ones(6), None, gates, states, FAMILIES["slstm"].titles)
    shown = {ax.get_title(loc="left").split(": ")[-1]: ax for ax in draw_inspection(list("abcdef"), [reading]).axes}
    assert shown["candidate z"].images[0].get_clim() == (-1.0, 1.0)
    assert shown["normalizer n"].images[0].get_clim() == (0.0, states["n"].max())
    assert shown["output gate o"].images[0].get_clim() == (0.0, 1.0)
