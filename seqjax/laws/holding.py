"""Laws with constants that are held: fixed to a value, tied to another constant, or kept between bounds.

A held law is a :class:`~seqjax.laws.law.Law` of the free constants alone, so that everything that is done with a law
can be done with it: starts, refits, profiles, degrees of freedom. A bounded constant x is fitted as a free number t:

    between a and b    x = a + (b - a) / (1 + exp(-t))
    above a            x = a + exp(t)          (below b: x = b - exp(t))

with x the logarithm of a positive constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError, did_you_mean
from seqjax.laws.law import Constant, Holds, Law
from seqjax.laws.table_file import number_of

INNER = 1e-3  # starts of a bounded constant keep this share of the width from its bounds, or this distance


def read_holds(law: Law, fix: Sequence[str] = (), tie: Sequence[str] = (), bound: Sequence[str] = ()) -> Holds:
    """What is held, from words such as ``E=1.9``, ``beta=alpha`` and ``alpha=0:1`` (``alpha=0:``, ``alpha=:1``).

    Raises:
        UserError: words of another form, an unknown constant, one that is held twice, or no constant is left.
    """
    fixed = tuple((name, _number("--fix", word, value)) for word, name, value in _pairs(law, "--fix", fix, "E=1.9"))
    tied = tuple((name, other) for _, name, other in _pairs(law, "--tie", tie, "beta=alpha"))
    bounds = tuple((name, *_ends(word, ends)) for word, name, ends in _pairs(law, "--bound", bound, "alpha=0:1"))
    for name, other in tied:
        if other not in law.names:
            raise UserError(f"--tie {name}={other}: {_no_constant(law, other)}")
    return Holds(fixed, tied, bounds)


def _pairs(law: Law, option: str, words: Sequence[str], example: str) -> list[tuple[str, str, str]]:
    found = []
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (name and equals and value):
            raise UserError(f"{option} {word}: expected a constant and what it is, such as {option} {example}")
        if name not in law.names:
            raise UserError(f"{option} {word}: {_no_constant(law, name)}")
        found.append((word, name, value))
    return found


def _no_constant(law: Law, name: str) -> str:
    return f"{law.name} has no constant {name}{did_you_mean(name, law.names)}; it has {', '.join(law.names)}"


def _number(option: str, word: str, value: str) -> float:
    try:
        return number_of(value)
    except ValueError as error:
        raise UserError(f"{option} {word}: {error}") from None


def _ends(word: str, ends: str) -> tuple[float, float]:
    low, colon, high = ends.partition(":")
    first = _number("--bound", word, low) if low.strip() else -math.inf
    last = _number("--bound", word, high) if high.strip() else math.inf
    if not colon or not first < last or (math.isinf(first) and math.isinf(last)):
        raise UserError(f"--bound {word}: expected a lower and a higher end, such as alpha=0:1, alpha=0: or alpha=:1")
    return first, last


def _checked(law: Law, holds: Holds) -> None:
    """Raise UserError where this law cannot hold these constants so."""
    positive = {constant.name: constant.positive for constant in law.constants}
    plain = [name for name, is_plain in zip(law.names, law.plain, strict=True) if is_plain]
    names = [name for name, *_ in (*holds.fixed, *holds.tied, *holds.bounds)]
    for name in [*names, *(other for _, other in holds.tied)]:
        if name not in plain:
            raise UserError(
                f"{name} of {law.name} cannot be held, since it is fitted as a part of another number; "
                f"constants that can be held: {', '.join(plain)}"
            )
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is held twice, by --fix, --tie or --bound: hold it once")
    for name, other in holds.tied:
        if other in (tied for tied, _ in holds.tied) or positive[name] != positive[other]:
            raise UserError(f"--tie {name}={other}: tie a coefficient to a coefficient, or an exponent to an exponent")
    for name, low, high in (*((name, value, value) for name, value in holds.fixed), *holds.bounds):
        if positive[name] and (high <= 0 or -math.inf < low < 0):
            raise UserError(f"{name} of {law.name} is above 0: it cannot be {min(low, high):g}")
    if len(holds.fixed) + len(holds.tied) == len(law.constants):
        raise UserError(f"{law.name}: all of its constants are held; leave one free")


@cache
def held(law: Law, holds: Holds) -> Law:
    """The law of the free constants.

    Raises:
        UserError: constants that cannot be held so.
    """
    if holds == Holds():
        return law
    _checked(law, holds)
    gone = {*dict(holds.fixed), *dict(holds.tied)}
    free = [place for place, name in enumerate(law.names) if name not in gone]
    ends = {name: _in_theta(law, name, low, high) for name, low, high in holds.bounds}
    inward = [_inward(*ends.get(law.names[place], (-math.inf, math.inf))) for place in free]
    outward = [_outward(*ends.get(law.names[place], (-math.inf, math.inf))) for place in free]

    def filled(columns: dict[int, Any], numpy: Any) -> Any:
        """All coordinates from those of the free constants."""
        like = columns[free[0]]
        for name, value in holds.fixed:
            place = law.names.index(name)
            columns[place] = numpy.full_like(like, math.log(value) if law.constants[place].positive else value)
        for name, other in holds.tied:
            columns[law.names.index(name)] = columns[law.names.index(other)]
        return numpy.stack([columns[place] for place in range(len(law.names))], axis=-1)

    def full(theta: Any, numpy: Any) -> Any:
        return filled({p: f(theta[..., i], numpy) for i, (p, f) in enumerate(zip(free, inward, strict=True))}, numpy)

    def log_loss(theta: jax.Array, logs: Any) -> jax.Array:
        return law.log_loss(full(theta, jnp), logs)

    def constants(theta: np.ndarray) -> np.ndarray:
        whole = full(np.asarray(theta, np.float64), np)
        return (law.maps[0](whole) if law.maps else whole)[..., free]

    def theta(values: np.ndarray) -> np.ndarray:
        whole = filled({place: values[..., i] for i, place in enumerate(free)}, np)
        whole = law.maps[1](whole) if law.maps else whole
        return np.stack([f(whole[..., place]) for place, f in zip(free, outward, strict=True)], axis=-1)

    kept = tuple(
        _constant(law.constants[place], outward[i], *ends.get(law.names[place], (-math.inf, math.inf)))
        for i, place in enumerate(free)
    )
    equation = f"{law.equation};  {holds}"
    return replace(
        law, equation=equation, constants=kept, log_loss=log_loss, maps=(constants, theta), linear=(), holds=holds
    )


def _in_theta(law: Law, name: str, low: float, high: float) -> tuple[float, float]:
    if not law.constants[law.names.index(name)].positive:
        return low, high
    return (math.log(low) if low > 0 else -math.inf), (math.log(high) if math.isfinite(high) else math.inf)


def _constant(constant: Constant, outward: Any, low: float, high: float) -> Constant:
    margin = INNER * (high - low if math.isfinite(high - low) else 1.0)
    inner = np.clip(constant.starts, low + margin, high - margin)
    return replace(constant, starts=tuple(dict.fromkeys(outward(inner).tolist())))


def _inward(low: float, high: float) -> Any:
    """From a free number to one between the ends."""
    if math.isfinite(low) and math.isfinite(high):
        return lambda t, numpy: low + (high - low) * (0.5 + 0.5 * numpy.tanh(t / 2))
    if math.isfinite(low):
        return lambda t, numpy: low + numpy.exp(t)
    return (lambda t, numpy: high - numpy.exp(t)) if math.isfinite(high) else (lambda t, numpy: t)


def _outward(low: float, high: float) -> Any:
    if math.isfinite(low) and math.isfinite(high):
        return lambda x: np.log((x - low) / (high - x))
    if math.isfinite(low):
        return lambda x: np.log(x - low)
    return (lambda x: np.log(high - x)) if math.isfinite(high) else (lambda x: np.asarray(x, np.float64))
