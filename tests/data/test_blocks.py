"""Parts cut by time: every block is tested once, and no frame of one part is near one of another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from seqjax.data.blocks import Stretch, block_edges, deal, window_ends
from seqjax.errors import UserError

GAP = 7


def frames(stretches: tuple[Stretch, ...]) -> set[int]:
    return {t for start, stop in stretches for t in range(start, stop)}


@pytest.mark.parametrize("folds", [3, 4, 5])
@pytest.mark.parametrize("length", [1000, 1003])
def test_parts_are_apart_and_every_block_is_tested_once(length: int, folds: int) -> None:
    edges = block_edges(length, 20)
    tested: list[int] = []
    for fold in range(folds):
        parts = deal(length, 20, folds, fold, GAP)
        sets = [frames(part) for part in parts]
        for one, other in itertools.combinations(sets, 2):
            assert min(abs(a - b) for a in one for b in other) == GAP + 1  # so many frames between that no part has
        tested += [block for block in range(20) if set(range(edges[block] + GAP, edges[block + 1])) <= sets[2]]
        assert sum(map(len, sets)) >= length - GAP * 3 * (20 // folds + 1)
        assert sets[0] and sets[1] and sets[2]
    assert sorted(tested) == list(range(20))


def test_windows_lie_within_one_stretch() -> None:
    stretches = (Stretch(0, 10), Stretch(15, 18), Stretch(30, 34))
    np.testing.assert_array_equal(window_ends(stretches, 4), [3, 4, 5, 6, 7, 8, 9, 33])
    assert len(window_ends((), 4)) == 0


@pytest.mark.parametrize(
    ("length", "blocks", "folds", "fold", "words"),
    [(100, 10, 2, 0, "at least 3 folds"), (100, 10, 5, 5, "fold 5 of 5"), (100, 10, 5, 0, "use at most 6 blocks")],
)
def test_what_cannot_be_cut_is_said(length: int, blocks: int, folds: int, fold: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        deal(length, blocks, folds, fold, GAP)
