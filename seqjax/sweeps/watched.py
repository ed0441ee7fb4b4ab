"""What a page that watches runs shows: their states, curves and losses, from the run folders alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.config import RunConfig, text_without, to_dict
from seqjax.errors import UserError, printable
from seqjax.families import hues_of, kind_of, labels_of
from seqjax.models import count_parameters
from seqjax.sweeps import folder as folders

POINTS = 200  # of a curve, at most
OF_A_MODEL = ("optimizer.learning_rate", "train.seed")  # may differ between the points of one learning-rate curve
FILES = ("config.json", "metrics.jsonl", "result.json", "plan.json", "failures.jsonl")


class Watched:
    """The runs of a folder of runs, sweeps, or sweeps of sweeps. Only files that have changed are read again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._version = 0
        self._read: dict[Path, tuple[Any, int, dict[str, Any]]] = {}  # folder -> (stamp, version, entry)

    def since(self, version: int) -> dict[str, Any]:
        """The runs that have changed after a version (0: all), the names of all, and the version now."""
        found = runs.runs_in(self.place, 3)
        for folder in found:
            stamp, known = _stamp(folder), self._read.get(folder)
            if known is None or known[0] != stamp:
                self._version += 1
                self._read[folder] = (stamp, self._version, entry_of(folder, self.place))
        entries = [self._read[folder] for folder in found]
        kinds = sorted({entry["kind"] for _, _, entry in entries})
        labels, hues = labels_of(kinds), hues_of(kinds)
        return {
            "version": self._version,
            "place": printable(str(self.place)),
            "names": [entry["name"] for _, _, entry in entries],
            "kinds": {kind: {"label": labels[kind], "colour": hues.get(kind, "#777777")} for kind in labels},
            "runs": [entry for _, changed, entry in entries if changed > version],
        }


def _stamp(folder: Path) -> tuple[Any, ...]:
    """Sizes and times of the files of a run, and whether a process trains it."""
    found: list[Any] = [runs.is_locked(folder)]
    for name in FILES:
        try:
            status = os.stat(folder / name)
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def entry_of(folder: Path, place: Path) -> dict[str, Any]:
    """One run as JSON values."""
    name = printable(str(folder.relative_to(place))) if folder != place else printable(folder.name)
    entry = {"name": name, "label": name, "state": "damaged", "step": 0, "steps": 0, "reason": "", "kind": "?"}
    entry |= dict.fromkeys(("loss", "parameters", "rate", "model", "terms"))
    entry |= {"unit": "tokens", "training": [], "validation": []}
    try:
        state = folders.state_to_show(folder)
        entry |= {"label": printable(state.label), "state": state.name, "step": state.step, "steps": state.steps}
        entry |= {"reason": printable(state.reason)}
        return entry | _numbers(folder, runs.read_config(folder))
    except UserError as error:
        return entry | {"state": "damaged", "reason": printable(str(error))}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:  # files that another program wrote
        return entry | {"state": "damaged", "reason": printable(f"cannot be read: {type(error).__name__}: {error}")}


def _numbers(folder: Path, config: RunConfig) -> dict[str, Any]:
    records, result = runs.read_metrics(folder), runs.read_result(folder) or {}
    unit = "tokens" if any("tokens" in record for record in records) else "step"
    final = (result.get("validation") or {}).get("loss")
    return {
        "kind": kind_of(config.model.family, vars(config.model)),
        "unit": unit,
        "training": _curve(records, unit, "loss"),
        "validation": _curve(records, unit, "validation_loss"),
        "loss": final if runs.is_number(final) else None,
        "parameters": _parameters(config, result),
        "rate": config.optimizer.learning_rate,
        "model": _digest(text_without(config, OF_A_MODEL)),
        "terms": _digest(_terms(config)),
    }


def _terms(config: RunConfig) -> str:
    """The same text for all runs whose losses may lie on one line over N: equal data, training and evaluation."""
    tree = {name: section for name, section in to_dict(config).items() if name not in ("model", "optimizer")}
    del tree["train"]["seed"]
    return json.dumps(tree, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _curve(records: Sequence[dict[str, Any]], unit: str, name: str) -> list[list[float]]:
    """At most `POINTS` points [data seen, loss] of a curve, the last one among them."""
    points = [[r[unit], r[name]] for r in records if runs.is_number(r.get(name)) and runs.is_number(r.get(unit))]
    stride = -(-len(points) // POINTS) or 1
    return points[::-1][::stride][::-1]


def _parameters(config: RunConfig, result: dict[str, Any]) -> int | None:
    """Non-embedding parameters N; None for code that is not loaded."""
    found = (result.get("parameters") or {}).get("non_embedding")
    return found if runs.is_count(found) else _counted(config.model)


@cache
def _counted(model: Any) -> int | None:
    try:
        return count_parameters(model, 1, 1)["non_embedding"]
    except (AttributeError, NotImplementedError, UserError):
        return None
