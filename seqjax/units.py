"""Numbers as people read them."""

from __future__ import annotations

import re


def si(value: float) -> str:
    """Three digits and an SI prefix: 12345 -> '12.3 k'; the unit follows directly."""
    value = float(f"{value:.3g}")
    for power, prefix in zip(range(24, 0, -3), "YZEPTGMk", strict=True):
        factor = 10.0**power
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


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
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if match is None:
        raise ValueError(text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise ValueError(text)
    return float(total)
