"""Laws by name: those of the package, and those from files outside it (see `seqjax.host.own_code`).

``path/to/my_law.py:knee`` is the `Law` that the file calls ``knee``; its name in fits is ``knee@0123456789abcdef``.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError, did_you_mean
from seqjax.host.numerics import pinned
from seqjax.host.own_code import Shelf, name_of, told
from seqjax.laws.forms import LAWS
from seqjax.laws.law import Constant, Law

VARIABLES = ("params", "tokens", "flops", "steps", "position", "unique_tokens", "other_loss")
MOST_STARTS = 50_000
TRIED = (1e6, 1e7)  # values of every variable at which a law is tried


def law_named(name: str) -> Law:
    """The law of this name: of the package, of ``FILE.py:LAW``, or of one that was loaded from there.

    Raises:
        UserError: there is none, and the nearest is named; or its code fails.
    """
    if shelf.names_file(name):
        name = shelf.load(name)
    found = LAWS.get(name) or shelf.known(name)
    if found is None:
        raise UserError(
            f"there is no law '{name}'{did_you_mean(name, LAWS)}; there are {', '.join(LAWS)}, or one of your own: "
            "FILE.py:LAW"
        )
    return found


def _make(module: ModuleType, label: str | None, text: str, path: Path) -> tuple[str, Law]:
    assert label is not None
    found = getattr(module, label, None)
    if not isinstance(found, Law):
        there = [name for name, value in vars(module).items() if isinstance(value, Law)]
        allowed = f"; it has {', '.join(there)}" if there else "; it has none: make one with seqjax.laws.Law(...)"
        raise UserError(f"{path}: has no law {label}{allowed}{did_you_mean(label, there)}")
    name = name_of(label, text)
    found = dataclasses.replace(found, name=name)
    if wrong := _wrong(found):
        raise UserError(f"{path}: {label}: {wrong}")
    _try(found, path)
    return name, found


def _wrong(law: Law) -> str:
    """What is wrong with the description of a law, or ""."""
    if unknown := [name for name in law.variables if name not in VARIABLES]:
        near = did_you_mean(str(unknown[0]), VARIABLES)
        return f"variables: {unknown[0]!r} is not allowed; allowed: {', '.join(VARIABLES)}{near}"
    if not law.variables or not law.constants or not all(isinstance(one, Constant) for one in law.constants):
        return "needs at least one variable, and constants that are made with seqjax.laws.Constant(...)"
    if len(set(law.names)) < len(law.names):
        return f"two constants have one name; the names are {', '.join(law.names)}"
    if unknown := [name for group in law.linear for name in group if name not in law.names]:
        return f"linear: {unknown[0]!r} is no constant of it{did_you_mean(str(unknown[0]), law.names)}"
    for constant in law.constants:
        if not constant.starts or not np.isfinite(constant.starts).all():
            return f"{constant.name}: starts: expected finite numbers, at least one"
    if (count := math.prod(len(constant.starts) for constant in law.constants)) > MOST_STARTS:
        return f"has {count:,} starts, every combination of those of its constants; at most {MOST_STARTS:,} are allowed"
    return ""


def _try(law: Law, path: Path) -> None:
    """Raise UserError where the formula fails, or gives no loss for every row."""
    theta, x = law.starts_SxP()[0], np.array(TRIED)
    try:
        with pinned(), jax.enable_x64(True):
            logs = {name: jnp.log(jnp.asarray(x)) for name in law.variables}
            losses = law.log_loss(jnp.asarray(theta), logs)
            jax.jacfwd(law.log_loss)(jnp.asarray(theta), logs)
        if law.maps and not np.allclose(law.maps[1](law.maps[0](theta)), theta):
            raise ValueError("the two functions of maps do not undo each other")
    except Exception as error:
        raise UserError(told(error, path)) from None
    if jnp.shape(losses) != x.shape:
        raise UserError(
            f"{path}: {law.name}: log_loss gives shape {jnp.shape(losses)} for {len(x)} rows; expected {x.shape}"
        )


shelf = Shelf("law", "--law", "FILE.py:LAW or MODULE:LAW", "my_law.py:knee", "law.py", _make)
"""The laws of the user's own that this process has loaded."""
