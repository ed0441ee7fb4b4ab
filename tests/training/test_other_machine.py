"""A run that goes on under another version or device: said once, kept in the result; a mirror gets no line twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from seqjax import runs
from seqjax.data import batches
from seqjax.training import hardware, loop
from seqjax.training.loop import train
from seqjax.training.tracking import Mirror


class Kept(Mirror):
    def __init__(self) -> None:
        self.steps: list[tuple[int, bool]] = []

    def log(self, record: dict[str, Any]) -> None:
        self.steps.append((record["step"], "validation_loss" in record))


def test_what_computed_the_steps_is_kept(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The last checkpoint but one is gone on from: steps 10 to 20 are mirrored once only."""
    config, folder, mirror = make_config("window"), tmp_path / "run", Kept()

    class Opened:
        def __enter__(self) -> Mirror:
            return mirror

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(loop, "open_mirror", lambda *_: Opened())
    assert "made_by" not in train(config, folder, devices=1, quiet=True)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "20")
    lines, mirrored = runs.read_metrics(folder), list(mirror.steps)
    real = hardware.describe_package
    monkeypatch.setattr(hardware, "describe_package", lambda name: "0.99" if name == "jax" else real(name))
    result = train(config, folder, devices=1)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: jax ")]
    assert told == [f"note: jax {real('jax')} until here and 0.99 now: last digits of losses may differ"]
    assert [(made["from_step"], made["jax"]) for made in result["made_by"]] == [(0, real("jax")), (10, "0.99")]
    assert told[0] in (folder / "log.txt").read_text()
    assert [r["step"] for r in runs.read_metrics(folder)] == [r["step"] for r in lines]
    assert mirror.steps == mirrored and len(set(mirrored)) == len(mirrored) > 4


def test_the_orders_of_many_seeds_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four seeds side by side, over three epochs: each order is drawn once."""
    drawn: list[tuple[int, ...]] = []
    real = batches._draw_order
    monkeypatch.setattr(batches, "_draw_order", lambda *key: (drawn.append(key), real(*key))[1])
    for epoch in range(3):
        for _ in range(4):
            for seed in range(1000, 1064):
                batches._epoch_order(11, 7, seed, epoch)
    assert len(drawn) == len(set(drawn)) == 3 * 64
