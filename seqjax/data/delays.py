"""Delayed copy: a symbol, then noise, then a query for the symbol. The dependency is exactly D steps long.

    x_0 = s ~ uniform over V symbols,   x_1 .. x_{D-1} ~ uniform over N noise tokens,   x_D = the query;   answer s

After Hochreiter & Schmidhuber (1997), Neural Computation 9(8), section 5.2, where noise is part of the task too.
Only x_0 tells the answer. A model that remembers it reaches loss 0. A model that does not is right with probability
1 / V and has a loss of at least ln V.

Tokens: symbols 0 .. V-1, noise V .. V+N-1, the query V+N.
"""

from __future__ import annotations

import numpy as np


def vocabulary_size(symbols: int, noise: int) -> int:
    """V + N + 1."""
    return symbols + noise + 1


def delayed_copies(
    rng: np.random.Generator, count: int, distance: int, symbols: int, noise: int
) -> tuple[np.ndarray, np.ndarray]:
    """B = ``count`` examples: tokens_BxT, int32, with T = ``distance`` + 1, and answers_B, int32."""
    tokens_BxT = rng.integers(symbols, symbols + noise, (count, distance + 1), dtype=np.int32)
    answers_B = rng.integers(symbols, size=count, dtype=np.int32)
    tokens_BxT[:, 0] = answers_B
    tokens_BxT[:, -1] = symbols + noise
    return tokens_BxT, answers_B
