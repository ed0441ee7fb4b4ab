"""A fit as a JSON file, which has all that is needed to predict, to draw and to fit again; and back."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import __version__
from seqjax.errors import UserError
from seqjax.runs import write_json
from seqjax.scaling.fitting import Fit
from seqjax.scaling.laws import law_named
from seqjax.scaling.points import LeftOut, Points

FORMAT = "seqjax fit 1"


def to_dict(fit: Fit) -> dict[str, Any]:
    """The fit as plain values; what is not finite becomes None."""
    points = fit.points
    found = {
        "format": FORMAT,
        "law": fit.law.name,
        "equation": fit.law.equation,
        "objective": fit.objective,
        "delta": fit.delta,
        "value": fit.value,
        "params": fit.constants,
        "intervals": {name: list(interval) for name, interval in fit.intervals.items()},
        "theta": fit.theta.tolist(),
        "starts": fit.starts,
        "starts_agreeing": fit.agreeing,
        "gradient": fit.gradient,
        "condition": fit.condition,
        "rests": fit.rests,
        "flags": list(fit.flags),
        "n_rows": len(points),
        "n_clusters": len(np.unique(points.cluster)),
        "left_out": [{"row": gone.row, "rule": gone.rule} for gone in points.left_out],
        "conventions": points.conventions,
        "notes": list(points.notes),
        "details": fit.details,
        "failed_draws": fit.failed_draws,
        "points": {
            **{name: values.tolist() for name, values in points.variables.items()},
            "loss": points.loss.tolist(),
            "cluster": points.cluster.tolist(),
            "rows": list(points.rows),
        },
        "draws": fit.draws.tolist(),
        "seqjax": __version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return _finite(found)


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_dict(saved: Mapping[str, Any]) -> Fit:
    """The fit that :func:`to_dict` wrote."""
    points = dict(saved["points"])
    loss, cluster = np.array(points.pop("loss")), np.array(points.pop("cluster"), int)
    rows = tuple(points.pop("rows"))
    law = law_named(saved["law"])
    return Fit(
        law=law,
        objective=saved["objective"],
        delta=saved["delta"],
        theta=np.array(saved["theta"]),
        value=saved["value"],
        points=Points(
            {name: np.array(values) for name, values in points.items()},
            loss,
            cluster,
            rows,
            dict(saved["conventions"]),
            tuple(LeftOut(**gone) for gone in saved["left_out"]),
            tuple(saved["notes"]),
        ),
        draws=np.array(saved["draws"]).reshape(-1, len(law.constants)),
        starts=saved["starts"],
        agreeing=saved["starts_agreeing"],
        gradient=saved["gradient"],
        condition=math.inf if saved["condition"] is None else saved["condition"],
        rests=saved["rests"],
        failed_draws=saved["failed_draws"],
        flags=tuple(saved["flags"]),
        details=saved["details"],
    )


def write_fits(path: Path, fits: Mapping[str, Fit]) -> None:
    """One fit as it is; several, by group, under ``fits``.

    Raises:
        UserError: the file cannot be written.
    """
    saved = {group: to_dict(fit) for group, fit in fits.items()}
    try:
        write_json(path, saved[""] if list(saved) == [""] else {"format": FORMAT, "fits": saved})
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def read_fits(path: Path) -> dict[str, Fit]:
    """The fits in a file by group; a single one has the group "".

    Raises:
        UserError: no such file, or not one of fits.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; a fit is written by seqjax fit TABLE --json {path}") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise UserError(f"{path}: is not a fit of seqjax; write one with seqjax fit TABLE --json FIT.json")
    try:
        return {group: from_dict(fit) for group, fit in saved.get("fits", {"": saved}).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged: {type(error).__name__} {error}") from None
