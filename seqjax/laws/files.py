"""Fits as JSON files. A file is complete: it suffices to predict, to draw and to fit again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from seqjax import __version__
from seqjax.errors import UserError, did_you_mean
from seqjax.host.disk import check_place, finite, write_json
from seqjax.host.own_code import class_of, is_own, sha256_of
from seqjax.laws.fitting import Fit
from seqjax.laws.holding import held
from seqjax.laws.law import Holds
from seqjax.laws.own import law_named, shelf
from seqjax.laws.points import Points
from seqjax.laws.selecting import LeftOut

FORMAT = "seqjax fit 1"


def to_dict(fit: Fit) -> dict[str, Any]:
    """The fit as plain values; numbers that are not finite become None."""
    points = fit.points
    found = {
        "format": FORMAT,
        "law": fit.law.name,
        "equation": fit.law.equation,
        **_code(fit.law.name),
        "objective": fit.objective,
        "delta": fit.delta,
        **({"errors": fit.errors} if fit.errors != "relative" else {}),
        **({"held": asdict(fit.law.holds)} if fit.law.holds != Holds() else {}),
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
        "clusters": points.clusters,
        "details": fit.details,
        "failed_draws": fit.failed_draws,
        "points": {
            **{name: values.tolist() for name, values in points.variables.items()},
            "loss": points.loss.tolist(),
            "cluster": points.cluster.tolist(),
            **({} if points.weight is None else {"weight": points.weight.tolist()}),
            "rows": list(points.rows),
        },
        "draws": fit.draws.tolist(),
        "seqjax": __version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return finite(found)


def _code(law: str) -> dict[str, str]:
    """Of a law of the user's own, the text of its file and the sha256 of that."""
    text = shelf.text_of(law)
    return {} if text is None else {"law_sha256": sha256_of(text), "law_code": text}


def _holds(saved: Mapping[str, Any]) -> Holds:
    """What is held; an end that is not finite is None in a file."""
    fixed, tied, bounds = (saved.get(name, ()) for name in ("fixed", "tied", "bounds"))
    ends = ((name, -math.inf if low is None else low, math.inf if high is None else high) for name, low, high in bounds)
    return Holds(tuple(map(tuple, fixed)), tuple(map(tuple, tied)), tuple(ends))


def from_dict(saved: Mapping[str, Any]) -> Fit:
    """The inverse of :func:`to_dict`."""
    points = dict(saved["points"])
    loss, cluster = np.array(points.pop("loss")), np.array(points.pop("cluster"), int)
    rows = tuple(points.pop("rows"))
    weight = points.pop("weight", None)
    law = held(law_named(saved["law"]), _holds(saved.get("held", {})))
    return Fit(
        law=law,
        objective=saved["objective"],
        delta=saved["delta"],
        theta=np.array(saved["theta"], np.float64),
        value=saved["value"],
        points=Points(
            {name: np.array(values) for name, values in points.items()},
            loss,
            cluster,
            rows,
            dict(saved["conventions"]),
            tuple(LeftOut(**gone) for gone in saved["left_out"]),
            tuple(saved["notes"]),
            saved.get("clusters", ""),
            None if weight is None else np.array(weight),
        ),
        draws=np.array(saved["draws"], np.float64) if saved["draws"] else np.empty((0, len(law.constants))),
        starts=saved["starts"],
        agreeing=saved["starts_agreeing"],
        gradient=saved["gradient"],
        condition=math.inf if saved["condition"] is None else saved["condition"],
        rests=saved["rests"],
        failed_draws=saved["failed_draws"],
        flags=tuple(saved["flags"]),
        details=saved["details"],
        errors=saved.get("errors", "relative"),
    )


def write_fits(path: Path, fits: Mapping[str, Fit]) -> None:
    """Write one fit (group "") as it is, or several, by group, under ``fits``.

    Raises:
        UserError: the file cannot be written.
    """
    saved = {group: to_dict(fit) for group, fit in fits.items()}
    check_place(path)
    try:
        write_json(path, saved[""] if list(saved) == [""] else {"format": FORMAT, "fits": saved})
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def read_fits(path: Path, law: str | None = None, trust: bool = False, group: str | None = None) -> dict[str, Fit]:
    """The fits in a file by group; a single fit has the group "".

    Args:
        group: only this one.
        law: ``FILE.py:LAW``, where the fits are of a law of the user's own; its code is run.
        trust: run the code of that law that the file of fits holds.
    Raises:
        UserError: the file cannot be read, is not a file of fits, or is damaged; there is no such group; the code of a
            law is not named, or has changed.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; a fit is written by seqjax fit TABLE --json {path}") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise UserError(f"{path}: is not a fit of seqjax; write one with seqjax fit TABLE --json FIT.json")
    fits = saved.get("fits", {"": saved})
    if not (isinstance(fits, dict) and fits and all(isinstance(fit, dict) for fit in fits.values())):
        raise UserError(f"{path}: is damaged: it holds no fits")
    if group is not None:
        if group not in fits:
            there = "holds one fit, without groups" if list(fits) == [""] else f"there are {', '.join(fits)}"
            raise UserError(f"--group {group}: is not in {path}{did_you_mean(group, fits)}; {there}")
        fits = {group: fits[group]}
    _load_laws(path, fits, law, trust)
    found = {}
    for name, fit in fits.items():
        try:
            found[name] = from_dict(fit)
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{path}: is damaged: {error}") from None
        if damage := _damage(found[name], fit):
            raise UserError(f"{path}: was changed by hand or is damaged: {damage}")
    return found


def _load_laws(path: Path, fits: Mapping[str, Mapping[str, Any]], law: str | None, trust: bool) -> None:
    """Make the laws of the user's own known that fits are of."""
    there = list(dict.fromkeys(str(fit.get("law")) for fit in fits.values()))
    named = None if law is None else law_named(law).name
    for fit in fits.values():
        name = fit.get("law")
        if not is_own(name) or shelf.known(name) is not None:
            continue
        if trust:
            if not isinstance(text := fit.get("law_code"), str):
                raise UserError(f"{path}: is damaged: it holds no law_code for {name}")
            shelf.adopt(name, text, path)
        elif named is not None and class_of(named) == class_of(name):
            raise UserError(
                f"--law: the file holds {named}, but the fit in {path} is of {name}: the text was changed since. Fit "
                "again, or run the text in the fit's file with --trust-code"
            )
        elif named is None or named in there:
            raise UserError(
                f"{path}: its law {name} is code outside of the package: name its file with --law "
                f"FILE.py:{class_of(name)}, or run the text in this file with --trust-code"
            )
    if named is not None and named not in there:
        raise UserError(f"--law {law}: no fit in {path} is of it, but of {', '.join(there)}")


def _damage(fit: Fit, saved: Mapping[str, Any]) -> str:
    """What is inconsistent in a file, or ""."""
    count, n = len(fit.law.constants), len(fit.points)
    if fit.theta.shape != (count,) or not np.isfinite(fit.theta).all():
        return f"theta must be {count} numbers for {fit.law.name}"
    if fit.draws.ndim != 2 or fit.draws.shape[1] != count or not np.isfinite(fit.draws).all():
        return f"draws must be lists of {count} numbers"
    shapes = {name: np.shape(values) for name, values in fit.points.variables.items()}
    if missing := [name for name in fit.law.variables if shapes.get(name) != (n,)]:
        return f"points must have {n} values of {missing[0]}"
    constants = [saved["params"].get(name) for name in fit.law.names]
    if any(value is None for value in constants) or not np.allclose(list(fit.constants.values()), constants, rtol=1e-6):
        return "params and theta are not the same constants"
    return ""
