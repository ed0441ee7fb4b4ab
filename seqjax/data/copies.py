"""A generated text with copies at log-uniform distances. Its lowest possible loss at every position is known.

The text is a sequence of units of three characters: a symbol, a distance j, a copy of the symbol 2^j units back.

    x_n ~ uniform over V symbols,   j_n ~ uniform over 0 .. J-1,   y_n = x_{n - 2^j_n}

Distances 2^j are log-uniform. Symbols and distances are not predictable. A copy is predictable if the context holds its
original or an earlier copy of the same original. So the loss of a perfect model falls until the context covers the
longest distance. The loss of a model that forgets stops falling at the distance where it forgets.

    G1cA0gC2b...    c is the symbol two units before G, g is G, b the symbol four units before C
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DISTANCES = "0123456789"
COPIES = SYMBOLS.lower()
UNIT = 3  # characters


@dataclass(frozen=True)
class Copies:
    """The process: V ``symbols``, at most 26, and J ``distances``, at most 10."""

    symbols: int = 8
    distances: int = 5

    def __post_init__(self) -> None:
        if not (2 <= self.symbols <= len(SYMBOLS) and 1 <= self.distances <= len(DISTANCES)):
            raise ValueError(
                f"{self.symbols} symbols and {self.distances} distances: allowed are 2 to {len(SYMBOLS)} and 1 to "
                f"{len(DISTANCES)}"
            )

    def text(self, units: int, seed: int) -> str:
        """A sample of ``units`` units. Its first copies are of symbols before the sample."""
        rng = np.random.default_rng(seed)
        longest = 2 ** (self.distances - 1)
        symbols = rng.integers(self.symbols, size=longest + units)
        distances = rng.integers(self.distances, size=units)
        copies = symbols[longest + np.arange(units) - 2**distances]
        return "".join(
            SYMBOLS[x] + DISTANCES[j] + COPIES[y] for x, j, y in zip(symbols[longest:], distances, copies, strict=True)
        )

    def write(self, folder: Path, units: int, files: int = 40, seed: int = 0) -> Path:
        """Write a corpus of ``units`` units as ``files`` equal files: whole files are held out."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (folder / f"{number:03d}.txt").write_text(self.text(units // files, seed * files + number))
        return folder

    def floor(self, context: int) -> np.ndarray:
        """The lowest possible expected loss at each position of a window that begins with a unit, nats, [T].

        Position t, from 1, predicts the token after t tokens. A copy over 2^j units in unit n is certain if n >= 2^j.
        Else its original lies before the window. Then the loss is ln V unless an earlier unit of the window copied the
        same original. Such a unit is n - 2^j + 2^i with i < j; it has distance 2^i with probability 1 / J.
        """
        of_kind = np.array([np.log(self.symbols), np.log(self.distances), 0.0])
        token = np.arange(1, context + 1)
        unit, place = np.divmod(token, UNIT)
        uncertain = np.array([self._uncertain(n) for n in range(context // UNIT + 1)])
        return np.where(place == UNIT - 1, np.log(self.symbols) * uncertain[unit], of_kind[place])

    def _uncertain(self, unit: int) -> float:
        """Probability that the copy of unit n is not predictable."""
        total = 0.0
        for j in range(self.distances):
            if unit < 2**j:
                earlier = sum(unit - 2**j + 2**i >= 0 for i in range(j))
                total += (1 - 1 / self.distances) ** earlier
        return total / self.distances

    def copies_of(self, loss_T: np.ndarray) -> np.ndarray:
        """The losses of the copies alone, one per unit."""
        return np.asarray(loss_T)[..., UNIT - 2 :: UNIT]
