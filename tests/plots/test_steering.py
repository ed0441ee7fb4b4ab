"""The figure of steering: its lines are the numbers given, with their intervals, and its floors are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seqjax.plots.steering import draw_steering
from seqjax.plots.style import save


def entry(value: float) -> dict[str, float]:
    return {"value": value, "low": 0.9 * value, "high": 1.2 * value}


def made_up() -> dict[str, Any]:
    def of(scale: float) -> dict[str, Any]:
        return {
            str(k): {"mse": entry(scale / k), "ratio_to_one_frame": entry(1 / k), "ratio_to_persistence": entry(scale)}
            for k in (1, 2, 4)
        }

    models = {"stacked": of(0.03), "LSTM": of(0.02), "LSTM + past steering": of(0.7)}
    return {"errors": {"mean": {"0": {"mse": entry(0.05)}}, "persistence": {"0": {"mse": entry(0.01)}}, **models}}


def heights(line: Any) -> np.ndarray:
    return np.asarray(line.get_ydata(), float)


def test_lines_are_the_numbers_and_bars_their_intervals(tmp_path: Path) -> None:
    made = draw_steering({"drawn road": made_up(), "simulator": made_up()})
    assert len(made.axes) == 6
    left, middle, right = made.axes[:3]
    lines = {container.get_label(): container for container in left.containers}
    assert set(lines) == {"stacked", "LSTM"}
    np.testing.assert_allclose(heights(lines["LSTM"].lines[0]), [0.02, 0.01, 0.005])
    bars = lines["LSTM"].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.018, 0.024], [0.009, 0.012], [0.0045, 0.006]])
    assert any(np.allclose(heights(line), 0.05) for line in left.get_lines())
    np.testing.assert_allclose(heights(middle.containers[0].lines[0]), [1, 0.5, 0.25])
    assert [container.get_label() for container in right.containers] == ["LSTM"]
    np.testing.assert_allclose(heights(right.containers[0].lines[0]), 0.7)
    for ax in made.axes:
        low, high = ax.get_ylim()
        drawn = np.concatenate([heights(line) for line in ax.get_lines()])
        assert low < drawn.min() and drawn.max() < high
    assert left.get_ylim()[0] == 0
    without = {name: by_k for name, by_k in made_up()["errors"].items() if "+" not in name}
    assert [ax.get_visible() for ax in draw_steering({"drawn road": {"errors": without}}).axes] == [True, True, False]
    save(made, tmp_path / "steering.png")
    assert (tmp_path / "steering.png").stat().st_size > 10_000
