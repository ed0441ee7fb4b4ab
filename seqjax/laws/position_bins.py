"""Log-spaced bins of the positions of a context: single positions first, then wider bins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

PER_DECADE = 8


def spans_of(length: int) -> list[slice]:
    """The bins of positions 0 .. length - 1, eight a decade of the positions counted from 1."""
    count = int(PER_DECADE * np.log10(length + 1)) + 2
    edges = np.unique(np.round(np.geomspace(1, length + 1, count)).astype(int)) - 1
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]
