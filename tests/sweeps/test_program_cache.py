"""The folder of compiled programs stays below its bound."""

from __future__ import annotations

import os
from pathlib import Path

from seqjax.sweeps.program_cache import trim


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for age in range(8):
        (tmp_path / str(age % 2)).mkdir(exist_ok=True)
        path = tmp_path / str(age % 2) / f"{age}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
    assert trim(tmp_path, 800) == 0
    assert trim(tmp_path, 600) == 4
    assert sorted(path.name for path in tmp_path.rglob("*-cache")) == [f"{age}-cache" for age in range(4)]
    assert trim(tmp_path / "absent", 1) == 0
