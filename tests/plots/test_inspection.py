"""The figure of a text inside models: what is drawn, and that it stays legible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
