"""Numbers, durations and lists as readable text."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path


def si(value: float) -> str:
    """Three digits and an SI prefix: 12345 -> '12.3 k'; the unit follows directly. From 1e27 on a power of ten."""
    value = float(f"{value:.3g}")
    if 1e27 <= abs(value) < math.inf:
        return power(value) + " "
    for exponent, prefix in zip(range(24, 0, -3), "YZEPTGMk", strict=True):
        factor = 10.0**exponent
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def counted(count: int, noun: str) -> str:
    """1 run, 2 runs, 1,024 runs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def quoted(path: Path) -> str:
    """A path as one word of a command line."""
    return shlex.quote(str(path))


def with_and(words: Sequence[str]) -> str:
    """Words as a sentence has them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def numbers_by_size(text: str) -> tuple[float, list[str | int]]:
    """A key that sorts numbers by size and numbers in names too: 2, 1e4, lstm 2, lstm 10."""
    with contextlib.suppress(ValueError):
        if not math.isnan(number := float(text)):
            return number, []
    return math.inf, [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", text))]


def power(value: float, digits: int = 3) -> str:
    """A number in powers of ten: 4.1e8, 1e21."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def readable(value: float, digits: int = 4) -> str:
    """A constant as readable text: 1.817, 477.8, 8.8e13."""
    if not math.isfinite(value):
        return "?" if value != value else "inf" if value > 0 else "-inf"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        rounded = float(f"{value:.{digits}g}")
        return f"{rounded:.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:#.{digits}g}"
    return power(value, digits)


def amount(name: str, value: float) -> str:
    """A value of a variable of laws: 4.74 k parameters or tokens, but 4.8e12 "flops"."""
    return power(value) if name == "flops" and value > 0 else si(value).strip()


def with_error(value: float, error: float | None, digits: int = 4) -> str:
    """A number and its error, 1.2345 ± 0.0012; only the number if the error is None or not finite."""
    bar = "" if error is None or not math.isfinite(error) else f" ± {error:.{digits}f}"
    return f"{value:.{digits}f}{bar}"


def duration(seconds: float) -> str:
    """Seconds as '42s', '3m 05s' or '2h 07m'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def parse_duration(text: str) -> float:
    """Seconds of '90s', '20m', '1h30m', '2d' or a bare number of seconds.

    Raises:
        ValueError: anything else, or not above zero.
    """
    match = re.fullmatch(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s?)?", text.strip())
    if match is None:
        raise ValueError(text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise ValueError(text)
    return float(total)
