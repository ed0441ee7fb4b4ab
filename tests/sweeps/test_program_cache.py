"""The folder of compiled programs stays below its bound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import pytest

from seqjax.sweeps.program_cache import share_compilations, trim


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


def test_programs_that_depend_on_more_lie_apart_and_the_users_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs of laws need no C++ functions; those that train change with them."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    monkeypatch.setenv("SEQJAX_CACHE", str(tmp_path))
    share_compilations()
    assert found == {}  # the tests have a folder of their own
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    folders = set()
    for others in ((), ("one",), ("another",)):
        share_compilations(*others)
        folders.add(Path(found["jax_compilation_cache_dir"]))
    assert len(folders) == 3 and {folder.parent for folder in folders} == {tmp_path / "xla"}
