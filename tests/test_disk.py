"""Room on a disk, asked for before much is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seqjax.errors import UserError
from seqjax.host.disk import need_room


def disk_of(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Path], tuple[int, int, int]]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", answer)


def test_too_little_room_is_told_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    disk_of(monkeypatch, lambda place: asked.append(place) or (10**12, 0, 1_500_000))
    folder = tmp_path / "not" / "yet"
    with pytest.raises(UserError, match=r"yet: the shard needs about 2\.35 GB, and 1\.5 MB are free there") as error:
        need_room(folder, 2.35e9, "the shard")
    assert "\n" not in str(error.value) and asked == [tmp_path] and not folder.exists()
    need_room(folder, 1_500_000, "the shard")


@pytest.mark.parametrize("answer", [(0, 0, 0), (10**9, 0, -1), OSError("no such call")])
def test_a_file_system_that_cannot_tell_is_not_refused(
    answer: tuple[int, int, int] | OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(place: Path) -> tuple[int, int, int]:
        if isinstance(answer, OSError):
            raise answer
        return answer

    disk_of(monkeypatch, tell)
    need_room(tmp_path, 1e15, "the shard")


def test_a_real_disk_has_some_room_and_not_all(tmp_path: Path) -> None:
    need_room(tmp_path, 1, "a byte")
    with pytest.raises(UserError, match="too much needs about 1 YB"):
        need_room(tmp_path, 1e24, "too much")
