"""A recording cut by time: contiguous blocks for training, validation and test, with a gap between the parts.

Neighbouring frames of a recording are nearly equal, so shuffled frames would put copies of the training set into the
test set. And one tail as the test set would be one piece of road. Blocks go to the parts in turn:

    fold 0 of 5, blocks 0, 1, 2 ...   T V R R R T V R R R ...      T test, V validation, R training

Over all folds every block is tested once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seqjax.errors import UserError


class Stretch(NamedTuple):
    """Frames ``start`` to ``stop`` - 1 of a recording, all in one part."""

    start: int
    stop: int


class Parts(NamedTuple):
    """The stretches of each part, in time order."""

    train: tuple[Stretch, ...]
    validation: tuple[Stretch, ...]
    test: tuple[Stretch, ...]


def block_edges(length: int, blocks: int) -> list[int]:
    """The starts of ``blocks`` nearly equal blocks, and the end of the last: [blocks + 1]."""
    return [i * length // blocks for i in range(blocks + 1)]


def deal(length: int, blocks: int, folds: int, fold: int, gap: int) -> Parts:
    """Distribute ``length`` frames to the parts of one fold.

    Block i is test if i mod folds = fold, validation if it is the block after a test block, else training.
    Neighbouring blocks of one part are one stretch. Every stretch but the first loses its first ``gap`` frames. So
    frames of two parts are more than ``gap`` frames apart.

    Raises:
        UserError: fewer than three folds, fewer blocks than folds, no such fold, or blocks not longer than twice the
            gap.
    """
    if folds < 3 or blocks < folds or not 0 <= fold < folds:
        raise UserError(
            f"fold {fold} of {folds} with {blocks} blocks: expected at least 3 folds, 0 <= fold < folds <= blocks"
        )
    edges = block_edges(length, blocks)
    if length // blocks <= 2 * gap:
        raise UserError(
            f"{length} frames in {blocks} blocks: blocks of {length // blocks} frames, but a gap of {gap} frames needs "
            f"more than {2 * gap}; use at most {length // (2 * gap + 1)} blocks"
        )
    part_of = ["test" if i % folds == fold else "validation" if i % folds == (fold + 1) % folds else "train"
               for i in range(blocks)]  # fmt: skip
    found: dict[str, list[Stretch]] = {name: [] for name in Parts._fields}
    for i, part in enumerate(part_of):
        if i and part_of[i - 1] == part:
            found[part][-1] = Stretch(found[part][-1].start, edges[i + 1])
        else:
            found[part].append(Stretch(edges[i] + (gap if i else 0), edges[i + 1]))
    return Parts(**{name: tuple(stretches) for name, stretches in found.items()})


def window_ends(stretches: tuple[Stretch, ...], length: int) -> np.ndarray:
    """The last frame of every window of ``length`` frames within one stretch, int64 [n]."""
    ends = [np.arange(stretch.start + length - 1, stretch.stop) for stretch in stretches]
    return np.concatenate(ends) if ends else np.zeros(0, np.int64)
