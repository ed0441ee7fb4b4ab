"""Families differ in colour for all readers."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from seqjax.families import FAMILIES
from seqjax.plots.labels import looks_of, looks_of_named
from seqjax.plots.steering import LOOKS

READERS = {
    "normal": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}
"""What a reader sees of linear red, green and blue (Machado et al. 2009, table 1, severity 1)."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    """Red, green and blue of a colour ``#rrggbb`` as amounts of light."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(colour: str, reader: np.ndarray) -> np.ndarray:
    """CIELAB, white D65."""
    xyz = TO_XYZ @ np.clip(reader @ linear(colour), 0, 1) / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_two_families_look_alike() -> None:
    for who, reader in READERS.items():
        seen = {name: lab(family.colour, reader) for name, family in FAMILIES.items()}
        apart = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)}
        closest = min(apart, key=apart.__getitem__)
        assert apart[closest] > 15, (who, closest, apart[closest])


def test_families_stand_out_from_white() -> None:
    """At least 2 : 1 by the formula of WCAG 2.1; a page in dark inverts lightness, and keeps about as much."""
    for name, family in FAMILIES.items():
        assert 1.05 / (TO_XYZ[1] @ linear(family.colour) + 0.05) >= 2, name


def test_a_family_keeps_its_look_in_names_of_models() -> None:
    of_family = looks_of(["lstm", "gru", "transformer"])
    names = {
        "numbers-gru": "gru",
        "LSTM, 1 layer of 16": "lstm",
        "numbers-gru-cho": "gru",
        "Transformer": "transformer",
    }
    found = looks_of_named(names)
    for name, family in names.items():
        assert found[name][:2] == of_family[family][:2]
    assert found["numbers-gru"].dash != found["numbers-gru-cho"].dash
    assert LOOKS["GRU"]["color"] == of_family["gru"].colour
